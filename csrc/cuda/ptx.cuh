// The machine instructions that CUDA C++ has no exact name for. Nothing else in this library is
// written in PTX, so a test can put its own model of the hardware in this file's place.
#pragma once

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

}  // namespace mish::cuda::ptx
