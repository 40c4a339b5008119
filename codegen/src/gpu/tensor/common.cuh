// What the tensor-core kernels share: copies and matrix instructions.

__device__ __forceinline__ u32 shared_address(const void* at) { return u32(__cvta_generic_to_shared(at)); }

// Copies `bytes` of BYTES from device to shared memory, zeros behind them, without waiting.
template <int BYTES>
__device__ __forceinline__ void copy_async(u32 to, const void* from, u32 bytes) {
  if constexpr (BYTES == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %3, %2;" ::"r"(to), "l"(from), "r"(bytes), "n"(BYTES) : "memory");
  }
}
__device__ __forceinline__ void copies_end() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most PENDING of the groups of copies are under way.
template <int PENDING>
__device__ __forceinline__ void copies_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Eight elements from device to shared memory, of which `there` exist; ALIGN neighbours are sure to be aligned together. `safe` is any
// address that may be read.
template <int ALIGN>
__device__ __forceinline__ void copy8(u32 to, const half_t* from, int there, const half_t* safe) {
  there = there < 0 ? 0 : there > 8 ? 8 : there;
  if constexpr (ALIGN == 1) {
#pragma unroll
    for (int i = 0; i < 8; i += 2) {
      u32 a = i < there ? from[i] : 0, b = i + 1 < there ? from[i + 1] : 0;
      asm volatile("st.shared.b32 [%0], %1;" ::"r"(to + 2 * i), "r"(a | b << 16) : "memory");
    }
  } else {
#pragma unroll
    for (int i = 0; i < 8; i += ALIGN) {
      int n = there - i < 0 ? 0 : there - i > ALIGN ? ALIGN : there - i;
      copy_async<2 * ALIGN>(to + 2 * i, n > 0 ? from + i : safe, 2 * n);
    }
  }
}

// The same with elements STRIDE apart.
__device__ __forceinline__ void copy8_apart(u32 to, const half_t* from, u32 stride, int there) {
#pragma unroll
  for (int i = 0; i < 8; i += 2) {
    u32 a = i < there ? from[i * stride] : 0, b = i + 1 < there ? from[(i + 1) * stride] : 0;
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(to + 2 * i), "r"(a | b << 16) : "memory");
  }
}

// Four words from shared memory, and to it.
__device__ __forceinline__ void shared_words(u32 (&r)[4], u32 at) {
  asm volatile("ld.shared.v4.b32 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}

__device__ __forceinline__ void put_words(u32 at, uint4 r) {
  asm volatile("st.shared.v4.b32 [%0], {%1,%2,%3,%4};" ::"r"(at), "r"(r.x), "r"(r.y), "r"(r.z), "r"(r.w) : "memory");
}

// Four 8x8 matrices of halves from shared memory; each lane names a row of one.
__device__ __forceinline__ void matrices(u32 (&r)[4], u32 at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}
__device__ __forceinline__ void matrices_transposed(u32 (&r)[4], u32 at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}

// c += a b for 16 rows, 8 columns and a depth of 16.
__device__ __forceinline__ void multiply(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#ifdef HALF_F16
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
#else
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
#endif
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Byte of chunk `chunk` (eight elements) of row `row` in a tile of rows of CHUNKS chunks: neighbouring rows are turned against each other, so
// that a column of chunks lies in different banks.
template <int CHUNKS>
__device__ __forceinline__ u32 swizzled(u32 row, u32 chunk) {
  constexpr u32 mask = CHUNKS >= 8 ? 7 : CHUNKS - 1;
  u32 turn = CHUNKS >= 8 ? row : CHUNKS == 4 ? row >> 1 : CHUNKS == 2 ? row >> 2 : 0;
  return (row * CHUNKS + (chunk ^ (turn & mask))) * 16;
}

// Byte of chunk `chunk` of line `line` in a tile of LINES lines that is read across them: blocks of 64 columns, one after the other, each as above.
template <int CHUNKS, int LINES>
__device__ __forceinline__ u32 swizzled_across(u32 line, u32 chunk) {
  if constexpr (CHUNKS > 8)
    return chunk / 8 * (LINES * 128) + swizzled<8>(line, chunk % 8);
  else
    return swizzled<CHUNKS>(line, chunk);
}
