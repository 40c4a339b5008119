// Products of four warps: every way that the factors can lie, and one kernel per rule.
typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short half_t;

__device__ __forceinline__ u32 shared_address(const void* at) { return u32(__cvta_generic_to_shared(at)); }
// W chunks of 16 bytes are the width of the swizzle.
template <int W>
__device__ __forceinline__ u32 swizzled(u32 at) { return at ^ (at >> 3 & (W - 1) << 4); }
template <int W>
__device__ __forceinline__ u64 descriptor(u32 at, u32 leading, u32 stride) {
  return u64(at >> 4) | u64(leading >> 4) << 16 | u64(stride >> 4) << 32 | u64(W == 8 ? 1 : W == 4 ? 2 : W == 2 ? 3 : 0) << 62;
}
// Byte of an element of a factor of ROWS rows (or columns) and depth 64.
template <int W, int ROWS, bool TURNED>
__device__ __forceinline__ u32 place(u32 row, u32 k) {
  if (TURNED) return row / 8 / W * (64 * 16 * W) + k / 8 * (128 * W) + k % 8 * (16 * W) + row / 8 % W * 16 + row % 8 * 2;
  return k / 8 / W * (ROWS * 16 * W) + row / 8 * (128 * W) + row % 8 * (16 * W) + k / 8 % W * 16 + k % 8 * 2;
}
// The descriptor of depths 16 q and up.
template <int W, int ROWS, bool TURNED>
__device__ __forceinline__ u64 part(u32 at, int q) {
  if (TURNED) return W == 1 ? descriptor<W>(at + q * 256, 128, 64 * 16) : descriptor<W>(at + q * 256 * W, 64 * 16 * W, 128 * W);
  return W == 1 ? descriptor<W>(at + q * 2 * ROWS * 16, ROWS * 16, 128) : descriptor<W>(at + 2 * q / W * (ROWS * 16 * W) + 2 * q % W * 16, 16, 128 * W);
}

__device__ __forceinline__ void show() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
__device__ __forceinline__ void begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void end() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N>
__device__ __forceinline__ void wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }

#define FOUR(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define REGISTERS16 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}"
#define SIXTEEN(d) FOUR(d, 0), FOUR(d, 4), FOUR(d, 8), FOUR(d, 12)
template <bool F16, bool TA, bool TB>
__device__ __forceinline__ void multiply(float (&d)[16], u64 a, u64 b, int add) {
  if (F16)
    asm volatile("{.reg .pred p; setp.ne.b32 p, %18, 0; wgmma.mma_async.sync.aligned.m64n32k16.f32.f16.f16 " REGISTERS16 ", %16, %17, p, 1, 1, %19, %20;}" : SIXTEEN(d) : "l"(a), "l"(b), "r"(add), "n"(TA), "n"(TB));
  else
    asm volatile("{.reg .pred p; setp.ne.b32 p, %18, 0; wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 " REGISTERS16 ", %16, %17, p, 1, 1, %19, %20;}" : SIXTEEN(d) : "l"(a), "l"(b), "r"(add), "n"(TA), "n"(TB));
}
// Minus the product.
template <bool TB>
__device__ __forceinline__ void multiply(float (&d)[16], const u32 (&a)[4], u64 b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 " REGISTERS16 ", {%16, %17, %18, %19}, %20, 1, -1, 1, %21;" : SIXTEEN(d) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(TB));
}

__device__ __forceinline__ void write(float* out, const float (&d)[16]) {
  u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int e = 0; e < 16; e++) out[(warp * 16 + lane / 4 + e / 2 % 2 * 8) * 32 + e / 4 * 8 + lane % 4 * 2 + e % 2] = d[e];
}

// out[64][32] = a[64][64] b[32][64]^T
template <bool F16, int W, bool TA, bool TB>
__device__ __forceinline__ void product(const half_t* a, const half_t* b, float* out) {
  __shared__ __align__(1024) unsigned char left[8192], right[4096];
  for (u32 i = threadIdx.x; i < 64 * 64; i += 128) *(half_t*)(left + swizzled<W>(place<W, 64, TA>(i / 64, i % 64))) = a[i];
  for (u32 i = threadIdx.x; i < 32 * 64; i += 128) *(half_t*)(right + swizzled<W>(place<W, 32, TB>(i / 64, i % 64))) = b[i];
  show();
  __syncthreads();
  float d[16];
  begin();
#pragma unroll
  for (int q = 0; q < 4; q++)
    multiply<F16, TA, TB>(d, part<W, 64, TA>(shared_address(left), q), part<W, 32, TB>(shared_address(right), q), q > 0);
  end();
  wait<0>();
  write(out, d);
}
#define PRODUCT(name, ...) \
  extern "C" __global__ void name(const half_t* a, const half_t* b, float* out) { product<__VA_ARGS__>(a, b, out); }
PRODUCT(along, false, 8, false, false)
PRODUCT(along_f16, true, 8, false, false)
PRODUCT(along_64, false, 4, false, false)
PRODUCT(along_32, false, 2, false, false)
PRODUCT(along_0, false, 1, false, false)
PRODUCT(across_64, false, 4, false, true)
PRODUCT(across_32, false, 2, true, true)
PRODUCT(across_0, false, 1, true, true)

// As the values of attention: the left factor in registers, 128 columns that lie across, in two blocks of 64.
extern "C" __global__ void across(const half_t* a, const half_t* b, float* out) {
  __shared__ __align__(1024) unsigned char right[16384];
  for (u32 i = threadIdx.x; i < 128 * 64; i += 128) *(half_t*)(right + swizzled<8>(place<8, 128, true>(i / 64, i % 64))) = b[i];
  show();
  __syncthreads();
  u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float d[4][16] = {};
  u32 x[4][4];
#pragma unroll
  for (int q = 0; q < 4; q++)
#pragma unroll
    for (int r = 0; r < 4; r++)
      x[q][r] = *(const u32*)(a + (warp * 16 + lane / 4 + r % 2 * 8) * 64 + q * 16 + lane % 4 * 2 + r / 2 * 8);
  begin();
#pragma unroll
  for (int q = 0; q < 4; q++)
#pragma unroll
    for (int j = 0; j < 4; j++)
      // Columns 32 j of a block of 64 are half a row further on.
      multiply<true>(d[j], x[q], descriptor<8>(shared_address(right) + j / 2 * 8192 + j % 2 * 64 + q * 2048, 8192, 1024));
  end();
  wait<0>();
#pragma unroll
  for (int j = 0; j < 4; j++) write(out + j * 2048, d[j]);
}

// One kernel per rule; `good` breaks none.
enum { GOOD, HIDDEN, LATE, COPIED, EARLY, CHANGED, OVERWRITTEN, UNFENCED, UNWRITTEN, ALONE, LEFT, EXITED, REWRITTEN, RACING, DISAGREEING };
template <int RULE>
__device__ __forceinline__ void rule(const half_t* in, float* out) {
  __shared__ __align__(1024) unsigned char left[8192], right[4096];
  u32 warp = threadIdx.x / 32;
  for (u32 i = threadIdx.x; i < 64 * 64 / 8; i += blockDim.x)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(left) + i * 16), "l"(in + i * 8) : "memory");
  asm volatile("cp.async.commit_group;" ::: "memory");
  if (RULE == COPIED) show();
  asm volatile("cp.async.wait_group 0;" ::: "memory");
  if (RULE == COPIED) __syncthreads();
  if (RULE != UNWRITTEN)
    for (u32 i = threadIdx.x; i < 32 * 64 / 8; i += blockDim.x) *(uint4*)(right + i * 16) = *(const uint4*)(in + i * 8);
  if (RULE != HIDDEN && RULE != LATE && RULE != COPIED) show();
  __syncthreads();
  if (RULE == LATE) show();
  float d[16] = {};
  u32 a[4] = {threadIdx.x, 0, 0, 0};
  u64 x = part<8, 64, false>(shared_address(left), 0), y = part<8, 32, false>(shared_address(right), 0);
  if (RULE == DISAGREEING && warp == 2) y += 2;
  if (RULE != UNFENCED) begin();
  if (RULE == CHANGED) asm volatile("add.f32 %0, %0, 0f3F800000;" : "+f"(d[3]));
  if (RULE == ALONE && warp == 3) return;
  if (RULE == LEFT)
    multiply<false>(d, a, y);
  else
    multiply<false, false, false>(d, x, y, 1);
  multiply<false, false, false>(d, x, y, 1);
  end();
  if (RULE == EARLY) out[threadIdx.x] = d[5];
  if (RULE == OVERWRITTEN) asm volatile("add.f32 %0, %0, %0;" : "+f"(d[3]));
  if (RULE == LEFT) asm volatile("add.u32 %0, %0, 1;" : "+r"(a[1]));
  if (RULE == REWRITTEN) {
    __syncthreads();
    ((half_t*)right)[threadIdx.x] = 0;
  }
  if (RULE == EXITED) return;
  wait<0>();
  if (RULE == RACING) ((half_t*)right)[threadIdx.x] = 0;
  write(out, d);
  if (RULE == LEFT) out[0] = a[1];
}
#define RULE(name, value) \
  extern "C" __global__ void name(const half_t* in, float* out) { rule<value>(in, out); }
RULE(good, GOOD)
RULE(hidden, HIDDEN)
RULE(late, LATE)
RULE(copied, COPIED)
RULE(early, EARLY)
RULE(changed, CHANGED)
RULE(overwritten, OVERWRITTEN)
RULE(unfenced, UNFENCED)
RULE(unwritten, UNWRITTEN)
RULE(alone, ALONE)
RULE(left_changed, LEFT)
RULE(exited, EXITED)
RULE(rewritten, REWRITTEN)
RULE(racing, RACING)
RULE(disagreeing, DISAGREEING)
