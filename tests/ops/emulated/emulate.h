// Runs CUDA kernels on the CPU, one block at a time. Every thread is a fiber, and all fibers reach a synchronising call
// before any goes past it. So all threads of a block, or of a warp for shuffles, must make the same calls.
#pragma once
#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

namespace emulated {

struct Index { unsigned x = 0, y = 0, z = 0; };
inline Index thread, block, block_size, grid_size;
alignas(1024) inline unsigned char shared_memory[256 * 1024];
inline float slots[1024];
inline ucontext_t scheduler;
inline ucontext_t* current;

inline unsigned linear() { return thread.x + block_size.x * thread.y; }
inline void yield() {
  const Index me = thread;
  swapcontext(current, &scheduler);
  thread = me;
}
inline float exchange(float value, unsigned lane_mask) {
  const unsigned me = linear();
  slots[me] = value;
  yield();
  const float other = slots[(me & ~31u) | ((me & 31u) ^ lane_mask)];
  yield();
  return other;
}
inline int any(bool here) {
  float sum = here;
  for (unsigned d = 16; d; d >>= 1) sum += exchange(sum, d);
  return sum > 0;
}

inline std::function<void()>* body;
inline bool finished;
inline void enter() {
  (*body)();
  finished = true;
}

inline void launch(dim3 grid, dim3 size, std::function<void()> kernel) {
  constexpr size_t kStack = 64 * 1024;
  const unsigned n = size.x * size.y;
  static std::vector<std::unique_ptr<char[]>> stacks;
  while (stacks.size() < n) stacks.emplace_back(new char[kStack]);
  body = &kernel;
  grid_size = {grid.x, grid.y, 1};
  block_size = {size.x, size.y, 1};
  for (block.y = 0; block.y < grid.y; ++block.y)
    for (block.x = 0; block.x < grid.x; ++block.x) {
      std::memset(shared_memory, 0xff, sizeof shared_memory);  // NaN: a test sees reads of unwritten memory
      std::vector<ucontext_t> fibers(n);
      std::vector<bool> done(n, false);
      for (unsigned t = 0; t < n; ++t) {
        getcontext(&fibers[t]);
        fibers[t].uc_stack = {stacks[t].get(), 0, kStack};
        fibers[t].uc_link = &scheduler;
        makecontext(&fibers[t], enter, 0);
      }
      for (unsigned left = n; left;)
        for (unsigned t = 0; t < n; ++t) {
          if (done[t]) continue;
          thread = {t % size.x, t / size.x, 0};
          finished = false;
          current = &fibers[t];
          swapcontext(&scheduler, current);
          if (finished) done[t] = true, --left;
        }
    }
}

}  // namespace emulated

#undef __shared__
#define __shared__ static
#ifndef __grid_constant__
#define __grid_constant__
#endif
#undef __launch_bounds__
#define __launch_bounds__(...)
#define threadIdx emulated::thread
#define blockIdx emulated::block
#define blockDim emulated::block_size
#define gridDim emulated::grid_size
#define __syncthreads emulated::yield
#define __shfl_xor_sync(mask, value, lane_mask) emulated::exchange(value, lane_mask)
#define __any_sync(mask, here) emulated::any(here)
#define __expf std::exp
using std::min;
