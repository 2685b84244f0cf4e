// The machine instructions that CUDA C++ has no exact name for. Nothing else in this library is
// written in PTX, so a test can put its own model of the hardware in this file's place.
#pragma once

// Whether one instruction adds or multiplies two floats. GPUs of 12.x know it too, but take it in
// two steps.
#ifndef MISH_PAIRS
#if __CUDA_ARCH__ >= 1000 && __CUDA_ARCH__ < 1100
#define MISH_PAIRS 1
#else
#define MISH_PAIRS 0
#endif
#endif

namespace mish::cuda::ptx {

/// 2^x, at most 2 ULP from the correctly rounded result (PTX ISA 9.1, section 9.7.3.21); subnormal
/// results are 0.
__device__ __forceinline__ float ex2(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

/// 1 / x within 1 ULP (PTX ISA 9.1, section 9.7.3.13); subnormal results are 0.
__device__ __forceinline__ float rcp(float x) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

/// The larger, or NaN if one is NaN: one instruction where a comparison and a selection are two.
__device__ __forceinline__ float max_nan(float a, float b) {
#if __CUDA_ARCH__ >= 800
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
#else
  return b < a ? a : b;
#endif
}

/// The smaller, or NaN if one is NaN.
__device__ __forceinline__ float min_nan(float a, float b) {
#if __CUDA_ARCH__ >= 800
  float result;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
#else
  return b > a ? a : b;
#endif
}

#if MISH_PAIRS
struct alignas(8) Pair {
  float x, y;
};

__device__ __forceinline__ unsigned long long bits(Pair pair) {
  unsigned long long result;
  asm("mov.b64 %0, {%1, %2};" : "=l"(result) : "f"(pair.x), "f"(pair.y));
  return result;
}
__device__ __forceinline__ Pair pair(unsigned long long bits) {
  Pair result;
  asm("mov.b64 {%0, %1}, %2;" : "=f"(result.x), "=f"(result.y) : "l"(bits));
  return result;
}

__device__ __forceinline__ Pair operator-(Pair a) { return {-a.x, -a.y}; }
__device__ __forceinline__ Pair operator+(Pair a, Pair b) {
  unsigned long long result;
  asm("add.rn.f32x2 %0, %1, %2;" : "=l"(result) : "l"(bits(a)), "l"(bits(b)));
  return pair(result);
}
__device__ __forceinline__ Pair operator-(Pair a, Pair b) { return a + -b; }
__device__ __forceinline__ Pair operator*(Pair a, Pair b) {
  unsigned long long result;
  asm("mul.rn.f32x2 %0, %1, %2;" : "=l"(result) : "l"(bits(a)), "l"(bits(b)));
  return pair(result);
}
__device__ __forceinline__ Pair fma(Pair a, Pair b, Pair c) {
  unsigned long long result;
  asm("fma.rn.f32x2 %0, %1, %2, %3;" : "=l"(result) : "l"(bits(a)), "l"(bits(b)), "l"(bits(c)));
  return pair(result);
}
/// Rounded up.
__device__ __forceinline__ Pair fma_up(Pair a, Pair b, Pair c) {
  unsigned long long result;
  asm("fma.rp.f32x2 %0, %1, %2, %3;" : "=l"(result) : "l"(bits(a)), "l"(bits(b)), "l"(bits(c)));
  return pair(result);
}
#endif

}  // namespace mish::cuda::ptx
