// What can be tuned, in one table. The macros are for `python -m benchmarks variants`, which tries
// others on a GPU; none of these figures has been measured yet.
#pragma once

namespace mish::cuda {

#ifndef MISH_PACK_BYTES
#define MISH_PACK_BYTES 16  // in one access; 32 from sm_100 on
#endif
#ifndef MISH_STREAMING
#define MISH_STREAMING 0  // 1: loads and stores ask to be evicted first
#endif

/// How blocks of a dense kernel are cut: `threads`, of which each takes `packs`, and how many
/// blocks a multiprocessor shall hold at least, which limits the registers (0: the compiler's
/// choice).
struct Tile {
  int threads, packs, min_blocks;
};

#ifdef MISH_THREADS
inline constexpr Tile kTried = {MISH_THREADS, MISH_PACKS, MISH_MIN_BLOCKS};
inline constexpr Tile kLargeTiles[] = {kTried, kTried, kTried};
#else
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
inline constexpr int kMostBlocks = 4;  // 1024 threads
#else
inline constexpr int kMostBlocks = 6;
#endif
constexpr int at_most(int blocks) { return blocks < kMostBlocks ? blocks : kMostBlocks; }

/// By the number of inputs: 32 bytes of reads in flight, or 16 of each input. Left to itself ptxas
/// saves registers for 8 blocks, and moves loads behind the maths; so it leaves them in front.
inline constexpr Tile kLargeTiles[] = {
    {256, 2, at_most(6)}, {256, 1, at_most(6)}, {256, 1, at_most(5)}};
#endif

/// For tensors that leave multiprocessors without two large tiles.
#ifdef MISH_THREADS
inline constexpr Tile kSmallTile = kTried;
#else
inline constexpr Tile kSmallTile = {64, 1, 16};
#endif

/// For operands that are not dense: elements that a thread has in flight, of single ones and of
/// packs.
inline constexpr int kStridedThreads = 128, kStridedElements = 4, kStridedPacks = 1;

}  // namespace mish::cuda
