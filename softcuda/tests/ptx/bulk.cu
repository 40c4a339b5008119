// Barriers in shared memory and bulk copies: a product that is fed by them, tiles of four axes, and one kernel per rule.
typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short half_t;
struct __align__(64) Map { u64 words[16]; };

__device__ __forceinline__ u32 shared_address(const void* at) { return u32(__cvta_generic_to_shared(at)); }
__device__ __forceinline__ void barrier_init(u64* at, u32 count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(at)), "r"(count) : "memory");
}
__device__ __forceinline__ void barrier_shown() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ __forceinline__ void show() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
__device__ __forceinline__ void expect(u64* at, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(at)), "r"(bytes) : "memory");
}
__device__ __forceinline__ void arrive(u64* at) {
  asm volatile("{.reg .b64 state; mbarrier.arrive.release.cta.shared::cta.b64 state, [%0];}" ::"r"(shared_address(at)) : "memory");
}
__device__ __forceinline__ void wait(u64* at, u32 parity) {
  asm volatile("{\n.reg .pred p;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra done;\nbra again;\ndone:\n}" ::"r"(shared_address(at)), "r"(parity) : "memory");
}
__device__ __forceinline__ void load2(void* to, const Map& map, int x, int y, u64* barrier) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];"
               ::"r"(shared_address(to)), "l"(&map), "r"(shared_address(barrier)), "r"(x), "r"(y) : "memory");
}
__device__ __forceinline__ void load1(void* to, const void* from, u32 bytes, u64* barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
               ::"r"(shared_address(to)), "l"(from), "r"(bytes), "r"(shared_address(barrier)) : "memory");
}
__device__ __forceinline__ void stores_end() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
__device__ __forceinline__ void stores_wait() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
__device__ __forceinline__ u64 descriptor(u32 at) { return u64(at >> 4) | u64(64) << 32 | u64(1) << 62; }
#define FOUR(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
__device__ __forceinline__ void multiply(float (&d)[16], u64 a, u64 b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, %16, %17, 1, 1, 1, 0, 0;"
               : FOUR(d, 0), FOUR(d, 4), FOUR(d, 8), FOUR(d, 12) : "l"(a), "l"(b));
}

// out = a b^T for 64 rows, 32 columns and a depth of 64 steps; warp 4 brings tiles, the others multiply.
extern "C" __global__ void product(const __grid_constant__ Map a, const __grid_constant__ Map b, const __grid_constant__ Map out, int steps) {
  __shared__ __align__(1024) unsigned char left[2][8192], right[2][4096];
  __shared__ __align__(128) float result[64 * 32];
  __shared__ u64 full[2], empty[2];
  u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2; i++) barrier_init(full + i, 1), barrier_init(empty + i, 128);
    barrier_shown();
  }
  __syncthreads();
  if (warp == 4) {
    if (lane == 0) {
      for (int step = 0; step < steps; step++) {
        int s = step & 1;
        if (step >= 2) wait(empty + s, (step / 2 - 1) & 1);
        expect(full + s, 8192 + 4096);
        load2(left[s], a, step * 64, 0, full + s);
        load2(right[s], b, step * 64, 0, full + s);
      }
    }
    return;
  }
  float d[16] = {};
  for (int step = 0; step < steps; step++) {
    int s = step & 1;
    wait(full + s, step / 2 & 1);
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
    for (int q = 0; q < 4; q++) multiply(d, descriptor(shared_address(left[s]) + q * 32), descriptor(shared_address(right[s]) + q * 32));
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    arrive(empty + s);
  }
#pragma unroll
  for (int e = 0; e < 16; e++) result[(warp * 16 + lane / 4 + e / 2 % 2 * 8) * 32 + e / 4 * 8 + lane % 4 * 2 + e % 2] = d[e];
  show();
  asm volatile("bar.sync 1, 128;" ::: "memory");
  if (threadIdx.x == 0) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&out), "r"(shared_address(result)), "r"(0), "r"(0) : "memory");
    stores_end();
    stores_wait();
  }
}

// A tile of four axes, as it lies in shared memory.
extern "C" __global__ void tile(const __grid_constant__ Map map, float* out, int count, int x, int y, int z, int w) {
  __shared__ __align__(1024) float place[1024];
  __shared__ u64 barrier;
  if (threadIdx.x == 0) {
    barrier_init(&barrier, 1);
    barrier_shown();
    expect(&barrier, count * 4);
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];"
                 ::"r"(shared_address(place)), "l"(&map), "r"(shared_address(&barrier)), "r"(x), "r"(y), "r"(z), "r"(w) : "memory");
  }
  __syncthreads();
  wait(&barrier, 0);
  for (int i = threadIdx.x; i < count; i += blockDim.x) out[i] = place[i];
}

// Copies 1024 bytes there and back; each rule is broken by one kernel.
enum { GOOD, EARLY, SHORT, UNINITIALISED, UNORDERED, HIDDEN, OVERWRITTEN, LEFT, BYTES, CROWDED };
template <int RULE>
__device__ __forceinline__ void rule(const float* in, float* out) {
  __shared__ __align__(128) float place[256];
  __shared__ u64 barrier;
  if (threadIdx.x == 0 && RULE != UNINITIALISED) barrier_init(&barrier, 1), barrier_shown();
  if (RULE != UNORDERED) __syncthreads();
  if (threadIdx.x == 32) {
    expect(&barrier, RULE == SHORT ? 1040 : 1024);
    if (RULE == CROWDED) arrive(&barrier), arrive(&barrier);
    load1(place, in, 1024, &barrier);
  }
  if (RULE == EARLY)
    __syncthreads();
  else
    wait(&barrier, 0);
  if (RULE == BYTES) out[0] = (float)barrier;
  for (int i = threadIdx.x; i < 256; i += 64) place[i] += 1.0f;
  if (RULE != HIDDEN) show();
  __syncthreads();
  if (threadIdx.x == 0) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], 1024;" ::"l"(out), "r"(shared_address(place)) : "memory");
    stores_end();
    if (RULE == OVERWRITTEN) place[7] = 0.0f;
    if (RULE != LEFT) stores_wait();
  }
}
#define RULE(name, value) \
  extern "C" __global__ void name(const float* in, float* out) { rule<value>(in, out); }
RULE(good, GOOD)
RULE(early, EARLY)
RULE(short_of_bytes, SHORT)
RULE(uninitialised, UNINITIALISED)
RULE(unordered, UNORDERED)
RULE(hidden, HIDDEN)
RULE(overwritten, OVERWRITTEN)
RULE(left, LEFT)
RULE(bytes, BYTES)
RULE(crowded, CROWDED)
