// Products of four warps (`wgmma`): compute capability 9.0 alone.

// What the tensor cores are told of a tile of halves that is swizzled by 128 bytes: its address, the distances of its blocks (PTX ISA,
// matrix descriptor of wgmma).
__device__ __forceinline__ u64 matrix(u32 at, u32 leading, u32 stride) {
  return u64((at & 0x3ffff) >> 4) | u64(leading >> 4) << 16 | u64(stride >> 4) << 32 | u64(1) << 62;
}
// Copies of this thread are there: show them to the tensor cores, which read shared memory by another way.
__device__ __forceinline__ void copies_shown() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
__device__ __forceinline__ void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void products_end() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int PENDING>
__device__ __forceinline__ void products_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}
// Sums of products that have been waited for: what is done with them stays behind the wait.
template <int N>
__device__ __forceinline__ void products_there(float (&sums)[N][4]) {
#pragma unroll
  for (int n = 0; n < N; n++) asm volatile("" : "+f"(sums[n][0]), "+f"(sums[n][1]), "+f"(sums[n][2]), "+f"(sums[n][3])::"memory");
}
