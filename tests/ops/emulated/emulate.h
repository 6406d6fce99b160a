// Runs CUDA kernels on the CPU, one cluster of blocks at a time. Every thread is a fiber that runs until it has to wait.
//
// Warps run in random order, and a warp goes on as far as it can. So a missing barrier shows. Where no thread can run
// and no copy is under way, the launch fails as a deadlock. The seed and the timing change the order and the delays.
#pragma once
#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace emulated {

// When copies land and wgmma reads its operands: as soon as it is asked to, as late as is allowed, or at random.
enum Timing { kEarly, kLate, kRandom };
inline int timing = kRandom;
inline unsigned seed = 0;
inline int planted = -1;  // the number of the fault that a test has planted in the kernel
inline std::mt19937 random_numbers;
inline unsigned draw(unsigned below) { return random_numbers() % below; }

struct Index { unsigned x = 0, y = 0, z = 0; };
inline Index thread, block, block_size, grid_size;
inline std::string fault;  // what a kernel did wrong; the launch ends with it
inline void fail(const std::string& what) {
  if (fault.empty()) fault = what;
}

// ---- shared memory ---------------------------------------------------------------------------------------------------

// Dynamic shared memory begins behind other things, at a multiple of 16 bytes and not more.
constexpr uint32_t kSharedStart = 48;
constexpr size_t kSharedLimit = 227 * 1024;
inline unsigned char shared_window[1];  // a place whose address stands for the beginning; nothing reads it
struct Barrier { uint32_t count = 0, pending = 0, phase = 0; int64_t bytes = 0; bool published = false; unsigned maker = 0; };
struct NamedBarrier { unsigned arrived = 0, generation = 0; };
struct Block {
  // What ordinary loads see, and what wgmma and the copy engine see: stores reach it by a proxy fence.
  std::vector<unsigned char> ordinary, async;
  std::map<uint32_t, Barrier> barriers;
  NamedBarrier named[16];
  unsigned running = 0;  // threads that have not ended
  std::vector<NamedBarrier> warps;
  std::vector<float> slots;
};
inline std::vector<Block> blocks;  // of the cluster that runs
inline NamedBarrier cluster_barrier;
inline unsigned rank;  // of the block whose thread runs
inline Block& mine() { return blocks[rank]; }
inline uint32_t shared_end;
// Addresses of another block's shared memory have its rank + 1 in the upper bits.
inline unsigned rank_of(uint32_t at) { return at >> 24 ? (at >> 24) - 1 : rank; }
inline uint32_t offset_of(uint32_t at, uint32_t bytes, const char* who) {
  const uint32_t offset = at & 0xffffff;
  if (offset < kSharedStart || offset + bytes > shared_end)
    return fail(std::string(who) + ": outside the block's shared memory"), kSharedStart;
  if (rank_of(at) >= blocks.size()) return fail(std::string(who) + ": no such block in the cluster"), kSharedStart;
  return offset;
}

// ---- fibers ----------------------------------------------------------------------------------------------------------

struct Fiber {
  ucontext_t context;
  Index thread, block;
  unsigned rank;
  bool done = false;
  std::function<bool()> ready;  // empty: it can run
  std::vector<std::pair<uint32_t, uint32_t>> unpublished;  // stores that no proxy fence has followed: (offset, bytes)
};
inline std::vector<Fiber> fibers;
inline Fiber* current;
inline ucontext_t scheduler;
inline std::function<void()>* body;

inline unsigned linear() { return thread.x + block_size.x * thread.y; }
inline void block_until(std::function<bool()> ready) {
  if (ready()) return;
  current->ready = std::move(ready);
  swapcontext(&current->context, &scheduler);
}
// A thread may be slow after it has told others something: if timing is late, until nobody else can run.
inline bool nobody_else = false;
inline void be_slow() {
  if (timing == kEarly || (timing == kRandom && draw(2))) return;
  current->ready = timing == kLate ? std::function<bool()>([] { return nobody_else; }) : nullptr;
  swapcontext(&current->context, &scheduler);
}
inline void enter() {
  (*body)();
  current->done = true;
}

// Work of the hardware that is under way; sm90.cuh fills it. step() does some of it and returns false if there is none.
inline std::function<bool()> step = [] { return false; };
inline void begin_products();  // before each cluster
inline void end_products();    // at the end of each thread

inline void sync(NamedBarrier& bar, unsigned count) {
  const unsigned generation = bar.generation;
  if (++bar.arrived == count) {
    bar.arrived = 0;
    ++bar.generation;
  } else {
    block_until([&bar, generation] { return bar.generation != generation; });
  }
}
inline void sync_block() { sync(mine().named[0], block_size.x * block_size.y); }
inline void sync_warp() { sync(mine().warps[linear() / 32], 32); }

inline float exchange(float value, unsigned lane_mask) {
  const unsigned me = linear();
  mine().slots[me] = value;
  sync_warp();
  const float other = mine().slots[(me & ~31u) | ((me & 31u) ^ lane_mask)];
  sync_warp();
  return other;
}
inline int any(bool here) {
  float sum = here;
  for (unsigned d = 16; d; d >>= 1) sum += exchange(sum, d);
  return sum > 0;
}

// ---- launches --------------------------------------------------------------------------------------------------------

inline size_t allowed_shared = 48 * 1024;  // cudaFuncAttributeMaxDynamicSharedMemorySize of the newest call
inline bool refuse(dim3 grid, dim3 size, unsigned cluster, size_t shared_bytes) {
  const bool too_much = shared_bytes > kSharedLimit || shared_bytes > std::max<size_t>(allowed_shared, 48 * 1024);
  return too_much || size.x * size.y > 1024 || cluster > 8 || grid.x % cluster || !grid.x || !grid.y;
}

inline void run_cluster(unsigned n, unsigned cluster, dim3 grid, dim3 size, Index first, size_t shared_bytes) {
  constexpr size_t kStack = 96 * 1024;
  static std::vector<std::unique_ptr<char[]>> stacks;
  while (stacks.size() < n * cluster) stacks.emplace_back(new char[kStack]);
  shared_end = kSharedStart + uint32_t(shared_bytes);
  blocks.assign(cluster, {});
  cluster_barrier = {};
  for (Block& b : blocks) {
    b.ordinary.assign(shared_end, 0xff);  // NaN: a test sees reads of unwritten memory
    b.async = b.ordinary;
    b.running = n;
    b.warps.resize((n + 31) / 32);
    b.slots.resize(n);
  }
  fibers = std::vector<Fiber>(n * cluster);
  for (unsigned t = 0; t < n * cluster; ++t) {
    Fiber& f = fibers[t];
    f.rank = t / n;
    f.thread = {t % n % size.x, t % n / size.x, 0};
    f.block = {first.x + f.rank, first.y, 0};
    getcontext(&f.context);
    f.context.uc_stack = {stacks[t].get(), 0, kStack};
    f.context.uc_link = &scheduler;
    makecontext(&f.context, enter, 0);
  }
  begin_products();
  const unsigned per_block = (n + 31) / 32, warps = per_block * cluster;
  std::vector<unsigned> order(warps);
  for (unsigned w = 0; w < warps; ++w) order[w] = w;
  nobody_else = false;
  for (unsigned left = n * cluster; left;) {
    std::shuffle(order.begin(), order.end(), random_numbers);
    bool ran = false;
    for (unsigned w : order) {
      const unsigned begin = w / per_block * n + w % per_block * 32, end = std::min(begin + 32, (w / per_block + 1) * n);
      for (unsigned t = begin; t < end; ++t) {
        Fiber& f = fibers[t];
        if (f.done || (f.ready && !f.ready())) continue;
        f.ready = nullptr;
        thread = f.thread;
        block = f.block;
        rank = f.rank;
        current = &f;
        swapcontext(&scheduler, &f.context);
        ran = true;
        if (f.done) --left, --blocks[f.rank].running;
        if (!fault.empty()) throw std::runtime_error(fault);
      }
      if (timing == kRandom && draw(2)) ran |= step();
    }
    const bool slow_ones_ran = ran && nobody_else;
    nobody_else = !ran && !nobody_else;  // first the slow threads go on, then the hardware
    if (slow_ones_ran || nobody_else) continue;
    if (!ran && !step()) throw std::runtime_error("deadlock: every thread waits");
  }
  while (step()) {
  }
  if (!fault.empty()) throw std::runtime_error(fault);
}

inline void launch(dim3 grid, dim3 size, size_t shared_bytes, unsigned cluster, std::function<void()> kernel) {
  std::function<void()> whole = [&] { kernel(), end_products(); };
  body = &whole;
  grid_size = {grid.x, grid.y, 1};
  block_size = {size.x, size.y, 1};
  random_numbers.seed(seed);
  fault.clear();
  if (refuse(grid, size, cluster, shared_bytes)) throw std::runtime_error("the launch is refused");
  for (unsigned y = 0; y < grid.y; ++y)
    for (unsigned x = 0; x < grid.x; x += cluster) run_cluster(size.x * size.y, cluster, grid, size, {x, y, 0}, shared_bytes);
}

inline cudaError_t launch_ex(const cudaLaunchConfig_t& config, std::function<void()> kernel) {
  unsigned cluster = 1;
  for (unsigned i = 0; i < config.numAttrs; ++i)
    if (config.attrs[i].id == cudaLaunchAttributeClusterDimension) cluster = config.attrs[i].val.clusterDim.x;
  launch(config.gridDim, config.blockDim, config.dynamicSmemBytes, cluster, std::move(kernel));
  return cudaSuccess;
}

}  // namespace emulated

#undef __shared__
#define __shared__ static
#ifndef __grid_constant__
#define __grid_constant__
#endif
#undef __launch_bounds__
#define __launch_bounds__(...)
#define __syncthreads emulated::sync_block
#define __shfl_xor_sync(mask, value, lane_mask) emulated::exchange(value, lane_mask)
#define __any_sync(mask, here) emulated::any(here)
#define __syncwarp emulated::sync_warp
#define __expf std::exp
using std::min;

static emulated::Index &threadIdx = emulated::thread, &blockIdx = emulated::block, &blockDim = emulated::block_size,
                       &gridDim = emulated::grid_size;
