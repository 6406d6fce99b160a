// The one-pass kernel's places in shared memory, and each cluster's share of the tiles.
#pragma once
#include "kernels.h"
#include "tiles.cuh"

namespace mmcl { namespace cuda {

constexpr int kRows = 64, kThreads = 384;
constexpr int kSharedLimit = 227 * 1024, kMailBytes = kRows * 32 * 4;  // half of a tile's S
constexpr float kLog2e = 1.4426950408889634f, kLn2 = 0.6931471805599453f;
// Places in shared memory. A block has NC chunks of 64 columns, and a row of z has PARTS blocks.
template <int NC, int PARTS> struct Shared {
  static constexpr int kStages = NC == 8 ? 2 : NC == 6 ? 3 : NC == 4 ? 4 : 6;
  static constexpr int kHalf = NC / 2 * kTile;  // bytes of the left or right columns of a tile
  static constexpr int kZ = 0, kStage = NC * kTile, kP = kStage + kStages * NC * kTile, kMail = kP + 2 * kTile,
                       kMax = kMail + (PARTS - 1) * 2 * kMailBytes, kBars = kMax + 2 * kRows * 4;
  // Barriers: z is full, z is empty. For each warpgroup: it has mail, the other block has read its mail.
  // For each stage and half: it is full, it is empty.
  static constexpr int kBytes = kBars + 8 * (6 + 4 * kStages);
  static constexpr int kAsked = kBytes + 1008;  // the base may lie up to 1008 bytes before a multiple of 1024
  static_assert(NC % 2 == 0 && kAsked <= kSharedLimit);
  uint32_t base;
  MMCL_DEVICE uint32_t z() const { return base + kZ; }
  MMCL_DEVICE uint32_t stage(int s) const { return base + kStage + s * NC * kTile; }
  MMCL_DEVICE uint32_t p(int group) const { return base + kP + group * kTile; }
  MMCL_DEVICE uint32_t high(int group, int row) const { return base + kMax + (group * kRows + row) * 4; }
  MMCL_DEVICE uint32_t z_full() const { return base + kBars; }
  MMCL_DEVICE uint32_t z_empty() const { return base + kBars + 8; }
  MMCL_DEVICE uint32_t mail(int group) const { return base + kMail + group * kMailBytes; }
  MMCL_DEVICE uint32_t has_mail(int group) const { return base + kBars + 16 + 8 * group; }
  MMCL_DEVICE uint32_t mail_was_read(int group) const { return base + kBars + 32 + 8 * group; }
  MMCL_DEVICE uint32_t full(int s, int half) const { return base + kBars + 48 + 8 * (2 * s + half); }
  MMCL_DEVICE uint32_t empty(int s, int half) const { return full(s + kStages, half); }
};
enum Named : uint32_t { kMaxOfA = 1, kPOfB, kPOfA, kSums };  // named barriers of the two warpgroups
constexpr uint32_t kConsumers = 256;

// A cluster's share of the tiles of all rows: segments of tiles of one group of rows.
struct Segment { int group, first, count; };
struct Walk {
  int tiles, group, first, left;
  MMCL_DEVICE Walk(const OnePass& a, int cluster) : tiles(int((a.classes + 63) / 64)) {
    const int64_t rows = int64_t(kRows) * a.row_blocks, total = (a.rows + rows - 1) / rows * tiles;
    const int64_t at = cluster * a.tiles_per_cluster;
    group = int(at / tiles);
    first = int(at - int64_t(group) * tiles);
    left = int(min(a.tiles_per_cluster, total - at));
  }
  MMCL_DEVICE bool next(Segment& s) {
    if (left <= 0) return false;
    s = {group, first, min(left, tiles - first)};
    left -= s.count;
    first = 0;
    ++group;
    return true;
  }
};

} }  // namespace mmcl::cuda
