// Tiles of shared memory that the copy engine writes and wgmma reads: rows of 64 numbers (128 bytes) with the 128-byte
// swizzle. They begin at multiples of 1024 bytes.
#pragma once
#include "rows.cuh"
#include "sm90.cuh"

namespace mmcl { namespace cuda {

constexpr int kTile = 64 * 64 * 2;  // bytes of 64 x 64 numbers

// The descriptor of an operand whose reduction dimension is contiguous: groups of 8 rows lie 1024 bytes apart.
MMCL_DEVICE uint64_t k_major(uint32_t at) {
  return uint64_t((at & 0x3ffff) >> 4) | uint64_t(1) << 16 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}
// The descriptor of an operand whose other dimension is contiguous: blocks of 64 numbers lie `leap` bytes apart, groups
// of 8 rows 1024 bytes apart.
MMCL_DEVICE uint64_t n_major(uint32_t at, uint32_t leap) {
  return uint64_t((at & 0x3ffff) >> 4) | uint64_t(leap >> 4) << 16 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}
// The descriptor of an operand so many bytes further on.
MMCL_DEVICE uint64_t advance(uint64_t descriptor, uint32_t bytes) { return descriptor + (bytes >> 4); }
// The address of the number (row, column) of a tile.
MMCL_DEVICE uint32_t swizzled(uint32_t tile, int row, int column) {
  return tile + row * 128 + ((column * 2) ^ ((row & 7) << 4));
}
// Two neighbours in one register.
template <typename T> MMCL_DEVICE uint32_t pack(float low, float high) {
  const Pack<T, 2> pair{{narrow<T>(low), narrow<T>(high)}};
  return reinterpret_cast<const uint32_t&>(pair);
}
template <typename T> MMCL_DEVICE uint32_t scale_pair(uint32_t pair, float factor) {
  const Pack<T, 2> p = reinterpret_cast<const Pack<T, 2>&>(pair);
  return pack<T>(widen(p.v[0]) * factor, widen(p.v[1]) * factor);
}

} }  // namespace mmcl::cuda
