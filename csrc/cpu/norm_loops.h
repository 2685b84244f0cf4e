// The kernels of norm_kernels.h for one instruction set; included behind loops.h.
#pragma once

#include "cpu/norm_groups.h"
#include "cpu/norm_moments.h"
#include "cpu/norm_rows.h"

namespace mish::cpu {
namespace {

template <class T>
constexpr NormKernels norm_kernels_of = {
    moments<T>, apply<T>,       numbers_size<T>, reduce<T>,       finish<T>, stretched_size<T>,
    stretch<T>, apply_group<T>, reduce_group<T>, finish_group<T>, gather<T>};

constexpr NormTable kNormTable = {norm_kernels_of<float>, norm_kernels_of<double>,
                                  norm_kernels_of<half_bits>, norm_kernels_of<bfloat16_bits>};

}  // namespace
}  // namespace mish::cpu
