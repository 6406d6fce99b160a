// Replaces csrc/cuda/sm90.cuh: Hopper's instructions as the PTX manual describes them, with the hardware's freedom.
// A copy decodes the real tensor map, spoils its destination when it is asked for, and lands later. Barriers count
// arrivals and bytes, and have a parity. Products decode real descriptors. Until its wait the accumulators of a product
// are NaN, and it may read its operands late. Products and copies see stores only after a proxy fence.
#pragma once
#include <type_traits>

#include "emulate.h"

namespace emulated {

// What cuTensorMapEncodeTiled was given.
struct TensorMap {
  const unsigned char* x;
  uint64_t sizes[2], row_bytes;
  uint32_t box[2], element, swizzle;  // swizzle: 0 or 128 bytes
};
static_assert(sizeof(TensorMap) <= sizeof(CUtensorMap));

inline uint32_t swizzled(uint32_t at) { return at ^ ((at >> 7 & 7) << 4); }
inline Barrier& barrier(uint32_t at) {
  static Barrier none;
  Block& owner = blocks[rank_of(at) < blocks.size() ? rank_of(at) : 0];
  if (!owner.running) fail("a barrier is used after its block has ended");
  const auto found = owner.barriers.find(offset_of(at, 8, "a barrier"));
  if (found == owner.barriers.end()) return fail("a barrier is used before it is initialised"), none;
  return found->second;
}
inline void complete(Barrier& bar) {
  if (bar.pending || bar.bytes) return;
  bar.pending = bar.count;
  ++bar.phase;
}

struct Copy { TensorMap map; uint32_t to, bar; int column, row; uint16_t to_blocks; };
inline std::deque<std::function<void()>> arrivals;  // copies and sent numbers that are under way, oldest first

template <typename F> void each_number(const Copy& c, F f) {
  const TensorMap& m = c.map;
  for (uint32_t r = 0; r < m.box[1]; ++r)
    for (uint32_t k = 0; k < m.box[0]; ++k) {
      const uint32_t at = (c.to & 0xffffff) + (r * m.box[0] + k) * m.element;
      f(m.swizzle ? swizzled(at) : at, int64_t(c.row) + r, int64_t(c.column) + k);
    }
}
inline uint32_t box_bytes(const TensorMap& m) { return m.box[0] * m.box[1] * m.element; }
inline bool step_arrivals() {
  if (arrivals.empty()) return false;
  const size_t which = timing == kRandom ? draw(unsigned(arrivals.size())) : 0;
  const std::function<void()> next = std::move(arrivals[which]);
  arrivals.erase(arrivals.begin() + which);
  next();
  return true;
}
inline void begin_arrival(std::function<void()> arrival) {
  step = step_arrivals;
  if (timing == kEarly) arrival();
  else arrivals.push_back(std::move(arrival));
}
// Tells a barrier of a block about bytes that have come.
inline void count_bytes(uint32_t bar_at, unsigned block, uint32_t bytes) {
  Barrier& bar = barrier((bar_at & 0xffffff) | (block + 1) << 24);
  if (!bar.published) fail("a copy tells a barrier whose initialisation no fence has published");
  bar.bytes -= bytes;
  complete(bar);
}
inline void land(const Copy& c) {
  for (unsigned b = 0; b < blocks.size(); ++b) {
    if (!(c.to_blocks >> b & 1)) continue;
    if (!blocks[b].running) return fail("a copy lands in a block that has ended");
    each_number(c, [&](uint32_t at, int64_t row, int64_t column) {
      const bool inside = row >= 0 && column >= 0 && row < int64_t(c.map.sizes[1]) && column < int64_t(c.map.sizes[0]);
      uint64_t value = 0;
      if (inside) std::memcpy(&value, c.map.x + row * c.map.row_bytes + column * c.map.element, c.map.element);
      std::memcpy(blocks[b].ordinary.data() + at, &value, c.map.element);
      std::memcpy(blocks[b].async.data() + at, &value, c.map.element);
    });
    count_bytes(c.bar, b, box_bytes(c.map));
  }
}
inline void copy(uint32_t to, const CUtensorMap* map, int column, int row, uint32_t bar, uint16_t to_blocks) {
  Copy c{{}, to, bar, column, row, to_blocks};
  std::memcpy(&c.map, map, sizeof c.map);
  if (offset_of(to, box_bytes(c.map), "a copy") % (c.map.swizzle ? 1024 : 128))
    return fail("a copy's destination is not aligned");
  if (!fault.empty()) return;
  for (unsigned b = 0; b < 16; ++b) {
    if (!(to_blocks >> b & 1)) continue;
    if (b >= blocks.size()) return fail("a copy goes to a block outside the cluster");
    std::memset(blocks[b].ordinary.data() + (to & 0xffffff), 0xff, box_bytes(c.map));
    std::memset(blocks[b].async.data() + (to & 0xffffff), 0xff, box_bytes(c.map));
  }
  begin_arrival([c] { land(c); });
}

// ---- matrix products -------------------------------------------------------------------------------------------------

struct Product {
  float* d;
  int n;
  uint64_t a, b;
  const uint32_t* registers;  // a of this thread; null: a is a descriptor
  const uint32_t* quad[4];    // a of the four threads that share rows
  bool keep, n_contiguous, half;
};
struct Products {
  std::vector<Product> open;                       // not committed yet
  std::deque<std::vector<Product>> groups;         // committed, oldest first
  std::map<float*, std::vector<float>> under_way;  // true values of accumulators whose registers are NaN
  bool fenced = false;
};
inline std::vector<Products> products;  // of each thread of the cluster
inline Products& my_products() { return products[current - fibers.data()]; }

inline float number(uint16_t bits, bool half) {
  if (half) return float(reinterpret_cast<const __half&>(bits));
  return float(reinterpret_cast<const __nv_bfloat16&>(bits));
}
// Number (row, k) of an operand in shared memory: by the layouts of the PTX manual and CUTLASS, for 16-bit numbers.
inline float operand(uint64_t descriptor, bool row_contiguous, uint32_t row, uint32_t k, bool half) {
  const uint32_t start = uint32_t(descriptor & 0x3fff) << 4, leap = uint32_t(descriptor >> 16 & 0x3fff) << 4,
                 group = uint32_t(descriptor >> 32 & 0x3fff) << 4;
  uint32_t at;
  if (descriptor >> 62 == 1)
    at = swizzled(row_contiguous ? start + row % 64 * 2 + row / 64 * leap + k % 8 * 128 + k / 8 * group
                                 : start + row % 8 * 128 + row / 8 * group + k * 2);
  else
    at = row_contiguous ? start + row % 8 * 2 + row / 8 * leap + k % 8 * 16 + k / 8 * group
                        : start + row % 8 * 16 + row / 8 * group + k / 8 * leap + k % 8 * 2;
  uint16_t bits;
  std::memcpy(&bits, mine().async.data() + offset_of(at, 2, "wgmma"), 2);
  return number(bits, half);
}
// This thread's part of a product: rows r0 and r0 + 8, and two columns of each eight.
inline void multiply(const Product& p, std::vector<float>& d) {
  const uint32_t t = thread.x % 128, r0 = t / 32 * 16 + t % 32 / 4, c0 = t % 4 * 2;
  float a[2][16];
  for (uint32_t h = 0; h < 2; ++h)
    for (uint32_t k = 0; k < 16; ++k) {
      if (!p.registers) {
        a[h][k] = operand(p.a, false, r0 + 8 * h, k, p.half);
        continue;
      }
      const uint32_t pair = p.quad[k % 8 / 2][k / 8 * 2 + h];
      a[h][k] = number(uint16_t(k % 2 ? pair >> 16 : pair), p.half);
    }
  for (int i = 0; i < p.n / 2; i += 4)
    for (uint32_t side = 0; side < 2; ++side) {
      float sum[2] = {0.f, 0.f};
      for (uint32_t k = 0; k < 16; ++k) {
        const float b = operand(p.b, p.n_contiguous, c0 + i / 4 * 8 + side, k, p.half);
        for (int h = 0; h < 2; ++h) sum[h] += a[h][k] * b;
      }
      for (int h = 0; h < 2; ++h) d[i + 2 * h + side] = (p.keep ? d[i + 2 * h + side] : 0.f) + sum[h];
    }
}
inline void ask(const Product& p) {
  Products& all = my_products();
  if (linear() / 128 * 128 + 128 > block_size.x) fail("wgmma in an incomplete warpgroup");
  if (!all.under_way.count(p.d)) {
    if (!all.fenced) fail("wgmma without a fence after other work on its accumulators");
    all.under_way[p.d].assign(p.d, p.d + p.n / 2);
    std::fill(p.d, p.d + p.n / 2, NAN);
  }
  all.open.push_back(p);
  sync_warp();
  const size_t first = size_t(current - fibers.data()) - linear() % 4;
  for (size_t lane = 0; lane < 4; ++lane) all.open.back().quad[lane] = products[first + lane].open.back().registers;
  if (timing == kEarly) multiply(all.open.back(), all.under_way[p.d]);
  sync_warp();
}
inline void wait(size_t most) {
  Products& all = my_products();
  sync_warp();
  while (all.groups.size() > most) {
    if (timing != kEarly)
      for (const Product& p : all.groups.front()) multiply(p, all.under_way[p.d]);
    all.groups.pop_front();
  }
  for (auto at = all.under_way.begin(); at != all.under_way.end();) {
    const auto uses = [&](const std::vector<Product>& group) {
      return std::any_of(group.begin(), group.end(), [&](const Product& p) { return p.d == at->first; });
    };
    if (uses(all.open) || std::any_of(all.groups.begin(), all.groups.end(), uses)) {
      ++at;
      continue;
    }
    std::copy(at->second.begin(), at->second.end(), at->first);
    at = all.under_way.erase(at);
  }
  all.fenced = false;
  sync_warp();
}
// Before each cluster, and at each thread's end.
inline void begin_products() {
  products.assign(fibers.size(), {});
  arrivals.clear();
}
inline void end_products() {
  if (!my_products().under_way.empty()) fail("a thread ends with a product under way");
}

}  // namespace emulated

namespace mmcl { namespace cuda {

#define MMCL_DEVICE inline

inline uint32_t shared_at(const void* p) {
  return uint32_t(static_cast<const unsigned char*>(p) - emulated::shared_window) + emulated::kSharedStart;
}
inline uint32_t in_block(uint32_t at, uint32_t rank) { return (at & 0xffffff) | (rank + 1) << 24; }

template <typename X> void store_bytes(uint32_t at, X x) {
  const uint32_t offset = emulated::offset_of(at, sizeof x, "a store");
  std::memcpy(emulated::blocks[emulated::rank_of(at)].ordinary.data() + offset, &x, sizeof x);
  if (emulated::rank_of(at) == emulated::rank) emulated::current->unpublished.push_back({offset, sizeof x});
}
template <typename X> X load_bytes(uint32_t at) {
  X x;
  const uint32_t offset = emulated::offset_of(at, sizeof x, "a load");
  std::memcpy(&x, emulated::mine().ordinary.data() + offset, sizeof x);
  return x;
}
inline void store_shared(uint32_t at, float x) { store_bytes(at, x); }
inline void store_matrices(uint32_t at, const uint32_t (&x)[4]) {
  static uint32_t words_of[8][1024][4];
  auto& words = words_of[emulated::rank];
  const unsigned me = emulated::linear(), lane = me % 32, first = me - lane + lane % 8 * 4;
  std::memcpy(words[me], x, sizeof x);
  emulated::sync_warp();
  struct alignas(16) Row { uint32_t pair[4]; } row;
  for (unsigned k = 0; k < 4; ++k) row.pair[k] = words[first + k][lane / 8];
  if (at % 16) emulated::fail("a row of a matrix is not aligned");
  store_bytes(at, row);
  emulated::sync_warp();
}
inline void send(uint32_t at, float a, float b, float c, float d, uint32_t bar) {
  const float4 numbers{a, b, c, d}, nothing{NAN, NAN, NAN, NAN};
  const uint32_t offset = emulated::offset_of(at, 16, "a sent number");
  const unsigned to = emulated::rank_of(at);
  if (at % 16 || to != emulated::rank_of(bar)) return emulated::fail("a number is sent to a wrong place");
  std::memcpy(emulated::blocks[to].ordinary.data() + offset, &nothing, 16);
  emulated::begin_arrival([=] {
    if (!emulated::blocks[to].running) return emulated::fail("a number is sent to a block that has ended");
    std::memcpy(emulated::blocks[to].ordinary.data() + offset, &numbers, 16);
    emulated::count_bytes(bar, to, 16);
  });
}
inline float load_shared(uint32_t at) { return load_bytes<float>(at); }
inline float4 load_shared4(uint32_t at) { return load_bytes<float4>(at); }
inline void publish_shared() {
  emulated::Block& b = emulated::mine();
  for (const auto& [at, bytes] : emulated::current->unpublished)
    std::memcpy(b.async.data() + at, b.ordinary.data() + at, bytes);
  emulated::current->unpublished.clear();
}

inline void bar_init(uint32_t bar, uint32_t count) {
  emulated::mine().barriers[emulated::offset_of(bar, 8, "a barrier")] = {count, count, 0, 0, false, emulated::linear()};
}
inline void bars_ready() {
  for (auto& [at, bar] : emulated::mine().barriers)
    if (bar.maker == emulated::linear()) bar.published = true;
}
inline void arrive(emulated::Barrier& bar) {
  if (!bar.pending) return emulated::fail("more threads arrive at a barrier than it expects");
  --bar.pending;
  emulated::complete(bar);
}
inline void bar_expect(uint32_t bar, uint32_t bytes) {
  emulated::barrier(bar).bytes += bytes;
  arrive(emulated::barrier(bar));
}
inline void bar_arrive(uint32_t bar) {
  arrive(emulated::barrier(bar));
  emulated::be_slow();
}
inline void bar_wait(uint32_t bar, uint32_t parity) {
  emulated::Barrier& b = emulated::barrier(bar);
  emulated::block_until([&b, parity] { return (b.phase & 1) != parity; });
}
inline void named_sync(uint32_t id, uint32_t threads) { emulated::sync(emulated::mine().named[id], threads); }
inline void named_arrive(uint32_t id, uint32_t threads) {
  emulated::NamedBarrier& bar = emulated::mine().named[id];
  if (++bar.arrived == threads) bar.arrived = 0, ++bar.generation;
  emulated::be_slow();
}
inline void cluster_sync() { emulated::sync(emulated::cluster_barrier, unsigned(emulated::fibers.size())); }
inline uint32_t cluster_rank() { return emulated::rank; }
inline int uniform(int x) { return x; }
inline float power_of_two(float x) { return exp2f(x); }
template <int N> void take_registers() {}
template <int N> void give_registers() {}

inline void copy_box(uint32_t to, const CUtensorMap* map, int column, int row, uint32_t bar) {
  emulated::copy(to, map, column, row, bar, uint16_t(1u << emulated::rank));
}
inline void copy_box(uint32_t to, const CUtensorMap* map, int column, int row, uint32_t bar, uint16_t to_blocks) {
  emulated::copy(to, map, column, row, bar, to_blocks);
}

template <typename X, int N> void hold(X (&)[N]) {}
inline void wgmma_fence() { emulated::my_products().fenced = true; }
inline void wgmma_commit() {
  emulated::Products& all = emulated::my_products();
  all.groups.push_back(std::move(all.open));
  all.open.clear();
}
template <int N> void wgmma_wait() { emulated::wait(N); }

template <typename T, int N, int TransB> struct Wgmma {
  static constexpr bool kHalf = std::is_same_v<T, __half>;
  static void run(float (&d)[N / 2], uint64_t a, uint64_t b, int keep) {
    emulated::ask({d, N, a, b, nullptr, {}, bool(keep), bool(TransB), kHalf});
  }
  static void run(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, int keep) {
    emulated::ask({d, N, 0, b, a, {}, bool(keep), bool(TransB), kHalf});
  }
};

} }  // namespace mmcl::cuda
