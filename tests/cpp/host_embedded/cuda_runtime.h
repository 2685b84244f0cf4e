// What csrc/cuda/embedded.cpp uses of CUDA, for a host compiler: notes what is loaded and launched.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned size = 1) : x(size) {}
};
using cudaStream_t = void*;
using cudaLibrary_t = const char*;  // the image
using cudaKernel_t = const struct LoadedKernel*;
enum cudaError_t {
  cudaSuccess,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorNoKernelImageForDevice = 209
};
enum cudaDeviceAttr {
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor,
  cudaDevAttrMultiProcessorCount
};
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeRelaxed };

struct LoadedKernel {
  std::string image, name;
};

/// What a test sets and reads.
struct FakeRuntime {
  int device = 0;
  std::map<int, int> capabilities;  // by device: 90 is 9.0
  int multiprocessors = 0;
  cudaError_t load_error = cudaSuccess;
  cudaStreamCaptureMode capture_mode = cudaStreamCaptureModeGlobal;
  std::vector<std::string> loaded;  // the images
  std::vector<LoadedKernel> launched;
};
inline FakeRuntime fake;

inline cudaError_t cudaGetDevice(int* device) {
  *device = fake.device;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  const int capability = fake.capabilities.at(device);
  if (attribute == cudaDevAttrMultiProcessorCount) {
    *value = fake.multiprocessors;
    return cudaSuccess;
  }
  *value = attribute == cudaDevAttrComputeCapabilityMajor ? capability / 10 : capability % 10;
  return cudaSuccess;
}
inline cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(*mode, fake.capture_mode);
  return cudaSuccess;
}
inline cudaError_t cudaLibraryLoadData(cudaLibrary_t* library, const void* code, void*, void*, int,
                                       void*, void*, int) {
  if (fake.capture_mode != cudaStreamCaptureModeRelaxed) return cudaErrorInvalidValue;
  if (fake.load_error != cudaSuccess) return fake.load_error;
  *library = static_cast<const char*>(code);
  fake.loaded.push_back(*library);
  return cudaSuccess;
}
inline cudaError_t cudaLibraryGetKernel(cudaKernel_t* kernel, cudaLibrary_t library,
                                        const char* name) {
  *kernel = new LoadedKernel{library, name};
  return cudaSuccess;
}

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  cudaStream_t stream = nullptr;
};

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t*, void (*kernel)(Parameters...),
                               const Arguments&...) {
  fake.launched.push_back(*reinterpret_cast<cudaKernel_t>(kernel));
  return cudaSuccess;
}
