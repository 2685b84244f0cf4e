// The kernels as NVRTC compiled them, embedded here: for builds without nvcc. nvrtc.py writes
// embedded_kernels.h.
#include <cstdint>
#include <map>
#include <mutex>
#include <utility>

// The launches need the sizes of these, and CUDA's headers need more than torch brings.
struct __half {
  uint16_t bits;
};
struct __nv_bfloat16 {
  uint16_t bits;
};

#include "cuda/launch.h"
#include "cuda/norm_launch.h"

namespace mish::cuda {
namespace {

/// All kernels, for the GPUs of a capability (90 is 9.0) and those that can run its code.
struct Image {
  int capability;
  bool ptx;
  const char* code;
};

/// The name in the images of a kernel.
template <Op op, class T, Kind kind, int N>
struct Name;
template <NormKernel kernel, class T, int N>
struct NormName;

#include "embedded_kernels.h"

/// Machine code for x.y runs on x.z from z = y on, PTX on all that is newer. Of two images that fit
/// the later one is better.
const Image* best_image(int capability) {
  const Image* best = nullptr;
  for (const Image& image : kImages) {
    const bool same_major = image.capability / 10 == capability / 10;
    if (image.capability <= capability && (same_major || image.ptx)) best = &image;
  }
  return best;
}

cudaError_t load(int device, cudaLibrary_t& library) {
  int major = 0, minor = 0;
  cudaError_t error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (error != cudaSuccess) return error;
  error = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  if (error != cudaSuccess) return error;
  const Image* image = best_image(10 * major + minor);
  if (image == nullptr) return cudaErrorNoKernelImageForDevice;
  // The first launch may be one that is captured into a graph, where other modes forbid loading.
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  error = cudaThreadExchangeStreamCaptureMode(&mode);
  if (error != cudaSuccess) return error;
  error = cudaLibraryLoadData(&library, image->code, nullptr, nullptr, 0, nullptr, nullptr, 0);
  cudaThreadExchangeStreamCaptureMode(&mode);
  return error;
}

struct Loaded {
  std::mutex mutex;
  std::map<int, cudaLibrary_t> libraries;                       // by device
  std::map<std::pair<int, const char*>, cudaKernel_t> kernels;  // by device and name
};

/// The kernel of that name for the current device, loaded when it is first asked for.
cudaError_t find(const char* name, cudaKernel_t& kernel) {
  // Never destroyed: threads may launch until the process ends.
  static Loaded& loaded = *new Loaded;
  int device = 0;
  if (const cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) return error;
  const std::lock_guard<std::mutex> lock(loaded.mutex);
  cudaKernel_t& known = loaded.kernels[{device, name}];
  if (known == nullptr) {
    cudaLibrary_t& library = loaded.libraries[device];
    cudaError_t error = library == nullptr ? load(device, library) : cudaSuccess;
    if (error == cudaSuccess) error = cudaLibraryGetKernel(&known, library, name);
    if (error != cudaSuccess) return error;
  }
  kernel = known;
  return cudaSuccess;
}

/// Whatever launches a kernel takes such a handle in place of its address.
template <class Kernel>
cudaError_t find_address(const char* name, Kernel& kernel) {
  cudaKernel_t found = nullptr;
  const cudaError_t error = find(name, found);
  kernel = reinterpret_cast<Kernel>(found);
  return error;
}

}  // namespace

template <Op op, class T, Kind kind, int N, class Kernel>
cudaError_t find(Kernel& kernel) {
  return find_address(Name<op, T, kind, N>::value, kernel);
}
template <NormKernel kernel, class T, int N, class Function>
cudaError_t find_norm(Function& function) {
  return find_address(NormName<kernel, T, N>::value, function);
}

}  // namespace mish::cuda
