// What tests of norms with Mish compare with: textbook maths in long double, and what rounding may
// make of it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "norm_kernels.h"
#include "reference.h"

namespace mish::test {

using Numbers = std::vector<long double>;

struct Case {
  Format format;
  NormShape shape;
  double mean, deviation, eps;
  bool given, affine;
  double weight = 1;  // of about this size

  int64_t count() const { return shape.batch * shape.channels * shape.size; }
  int64_t channel(int64_t i) const { return i / shape.size % shape.channels; }
  int64_t set(int64_t i) const {
    if (shape.groups == 0) return channel(i);
    return i / (shape.size * (shape.channels / shape.groups));
  }
  std::string name() const {
    char text[200];
    std::snprintf(text, sizeof(text), "%s %ldx%ldx%ld groups %ld mean %g deviation %g%s%s",
                  format.name, static_cast<long>(shape.batch), static_cast<long>(shape.channels),
                  static_cast<long>(shape.size), static_cast<long>(shape.groups), mean, deviation,
                  given ? " given" : "", affine ? "" : " plain");
    return text;
  }
};

inline int failures = 0;

struct Inputs {
  Memory x, dy;
  std::vector<double> weight, bias, mean, rstd, variance;

  explicit Inputs(const Case& c)
      : x(c.format, c.count()),
        dy(c.format, c.count()),
        mean(c.shape.sets()),
        rstd(c.shape.sets()),
        variance(c.shape.sets()) {
    std::mt19937_64 random(1);
    std::normal_distribution<double> normal;
    for (int64_t i = 0; i < c.count(); ++i) {
      x.set(i, c.format.encode(c.mean + c.deviation * normal(random)));
      dy.set(i, c.format.encode(normal(random)));
    }
    for (int64_t i = 0; c.affine && i < c.shape.channels; ++i) {
      weight.push_back(static_cast<float>(c.weight * (1 + normal(random) / 4)));
      bias.push_back(static_cast<float>(normal(random) / 2));
    }
    for (int64_t i = 0; c.given && i < c.shape.channels; ++i) {
      const double spread = normal(random);
      mean[i] = c.mean + c.deviation * normal(random) / 4;
      rstd[i] = 1 / c.deviation / (1 + spread * spread);
    }
  }
};

struct Results {
  Memory y, dx;
  std::vector<double> dweight, dbias, mean, rstd, variance;
  bool operator==(const Results& other) const {
    return y == other.y && dx == other.dx && dweight == other.dweight && dbias == other.dbias &&
           mean == other.mean && rstd == other.rstd && variance == other.variance;
  }
};

/// The largest of the errors, as shares of what is allowed.
struct Worst {
  const Case& c;
  void check(const char* what, int64_t i, long double got, long double expected,
             long double allowed) const {
    if (std::fabs(got - expected) <= allowed || (std::isnan(got) && std::isnan(expected))) return;
    if (++failures > 50) return;
    std::printf("%s: %s %ld: got %.12Lg, expected %.12Lg, off by %.3Lg, allowed %.3Lg\n",
                c.name().c_str(), what, static_cast<long>(i), got, expected,
                std::fabs(got - expected), allowed);
  }
};

inline void test_values(const Case& c, Results& got, Inputs& in) {
  const int64_t n = c.count(), sets = c.shape.sets();
  const Worst worst = {c};
  Numbers mean(sets), variance(sets), rstd(sets), count(sets), size(sets);
  Numbers a(sets), b(sets), dweight(c.shape.channels), dbias(c.shape.channels);
  Numbers of_dweight(c.shape.channels), of_dbias(c.shape.channels), of_a(sets), of_b(sets), gs(n);
  const auto x = [&](int64_t i) { return c.format.decode(in.x.get(i)); };
  const auto dy = [&](int64_t i) { return c.format.decode(in.dy.get(i)); };
  const auto weight = [&](int64_t i) -> long double {
    return c.affine ? in.weight[c.channel(i)] : 1;
  };
  for (int64_t i = 0; i < n; ++i) {
    mean[c.set(i)] += x(i);
    count[c.set(i)] += 1;
  }
  for (int64_t k = 0; k < sets; ++k) mean[k] = c.given ? in.mean[k] : mean[k] / count[k];
  for (int64_t i = 0; i < n; ++i) {
    variance[c.set(i)] += (x(i) - mean[c.set(i)]) * (x(i) - mean[c.set(i)]);
    size[c.set(i)] = std::max(size[c.set(i)], std::fabs(x(i)));
  }
  // What float arithmetic leaves of each: some units of its last place, and of what the sums hold.
  const long double unit = c.format.dtype == mish::DType::kDouble ? 0x1p-52L : 0x1p-23L;
  for (int64_t k = 0; k < sets; ++k) {
    variance[k] /= count[k];
    rstd[k] = c.given ? in.rstd[k] : 1 / std::sqrt(variance[k] + c.eps);
    if (c.given) continue;
    const long double spread = std::sqrt(variance[k]);
    worst.check("mean", k, got.mean[k], mean[k], unit * spread + 0x1p-50L * size[k]);
    if (!got.variance.empty()) {
      worst.check("variance", k, got.variance[k], variance[k], 3 * unit * variance[k]);
    }
    worst.check("rstd", k, got.rstd[k], rstd[k], 2 * unit * rstd[k]);
  }
  const auto u = [&](int64_t i) { return x(i) - mean[c.set(i)]; };
  const auto z = [&](int64_t i) {
    return u(i) * rstd[c.set(i)] * weight(i) + (c.affine ? in.bias[c.channel(i)] : 0);
  };
  // Errors of z: of the mean, of the products, and of x beside the float that stands for the mean.
  // A double does without what it leaves of the mean.
  const long double of_mean = c.format.size == 8 ? std::fabs(c.mean) : 0;
  const auto error = [&](int64_t i) {
    return 2 * unit *
           (c.weight + of_mean * rstd[c.set(i)] * std::fabs(weight(i)) + std::fabs(z(i)) +
            std::fabs(u(i) * rstd[c.set(i)] * weight(i)));
  };
  const auto rounding = [&](long double value) {
    return c.format.spacing(value) * (c.format.size == 2 ? 0.51L : 2);
  };
  for (int64_t i = 0; i < n; ++i) {
    const long double expected = reference(Op::kForward, z(i));
    worst.check("y", i, c.format.decode(got.y.get(i)), expected,
                1.1L * error(i) + 4 * unit * std::fabs(expected) + rounding(expected));
    const long double g = gs[i] = dy(i) * reference(Op::kBackward, z(i));
    const long double of_g = std::fabs(dy(i)) * (error(i) + 4 * unit);
    a[c.set(i)] += weight(i) * g;
    b[c.set(i)] += weight(i) * g * u(i);
    of_a[c.set(i)] += std::fabs(weight(i)) * (of_g + unit * std::fabs(g));
    of_b[c.set(i)] += std::fabs(weight(i) * u(i)) * (of_g + unit * std::fabs(g));
    dbias[c.channel(i)] += g;
    dweight[c.channel(i)] += g * u(i) * rstd[c.set(i)];
    of_dbias[c.channel(i)] += of_g + unit * std::fabs(g);
    of_dweight[c.channel(i)] += (of_g + unit * std::fabs(g)) * std::fabs(u(i) * rstd[c.set(i)]);
  }
  for (int64_t i = 0; i < n; ++i) {
    const int64_t k = c.set(i);
    const long double r = rstd[k], g = gs[i];
    long double dx = weight(i) * r * g, allowed = std::fabs(weight(i) * r * dy(i)) * error(i);
    long double parts = std::fabs(dx);
    if (!c.given) {
      dx += -r * a[k] / count[k] - r * r * r * u(i) * b[k] / count[k];
      parts += std::fabs(r * a[k] / count[k]) + std::fabs(r * r * r * u(i) * b[k] / count[k]);
      allowed += r * of_a[k] / count[k] + r * r * r * std::fabs(u(i)) * of_b[k] / count[k];
    }
    allowed += 6 * unit * (parts + std::fabs(weight(i) * r * dy(i))) + rounding(dx);
    worst.check("dx", i, c.format.decode(got.dx.get(i)), dx, allowed);
  }
  for (int64_t k = 0; k < c.shape.channels; ++k) {
    worst.check("dweight", k, got.dweight[k], dweight[k], of_dweight[k]);
    worst.check("dbias", k, got.dbias[k], dbias[k], of_dbias[k]);
  }
}

}  // namespace mish::test
