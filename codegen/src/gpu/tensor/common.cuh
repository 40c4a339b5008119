// What the tensor-core kernels share: numbers, copies, matrix instructions. No header is included: a kernel compiles in a fraction of a
// second and wherever NVRTC alone is. The lines above this one, made from the blueprint, define HALF_F16 (or not) and the constants.

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short half_t; // the bits of a half precision number

__device__ __forceinline__ float to_float(half_t bits) {
#ifdef HALF_F16
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
  return x;
#else
  return __uint_as_float(u32(bits) << 16);
#endif
}

__device__ __forceinline__ float to_float(float x) { return x; }

// Two numbers as the two halves of a word, the first one lowest.
__device__ __forceinline__ u32 pack(float low, float high) {
  u32 word;
#ifdef HALF_F16
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
#else
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
#endif
  return word;
}

__device__ __forceinline__ float low(u32 word) { return to_float(half_t(word & 0xffffu)); }
__device__ __forceinline__ float high(u32 word) { return to_float(half_t(word >> 16)); }

__device__ __forceinline__ void put(half_t* at, float x) { *at = half_t(pack(x, 0.0f)); }
__device__ __forceinline__ void put(float* at, float x) { *at = x; }

// Two neighbours, aligned.
__device__ __forceinline__ void put2(half_t* at, float x, float y) { *reinterpret_cast<u32*>(at) = pack(x, y); }
__device__ __forceinline__ void put2(float* at, float x, float y) { *reinterpret_cast<float2*>(at) = make_float2(x, y); }

// Eight neighbours, aligned.
__device__ __forceinline__ void take8(const half_t* at, float (&x)[8]) {
  uint4 words = *reinterpret_cast<const uint4*>(at);
  x[0] = low(words.x), x[1] = high(words.x), x[2] = low(words.y), x[3] = high(words.y);
  x[4] = low(words.z), x[5] = high(words.z), x[6] = low(words.w), x[7] = high(words.w);
}
__device__ __forceinline__ void take8(const float* at, float (&x)[8]) {
  float4 a = reinterpret_cast<const float4*>(at)[0], b = reinterpret_cast<const float4*>(at)[1];
  x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w, x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
}
__device__ __forceinline__ void put8(half_t* at, const float (&x)[8]) {
  *reinterpret_cast<uint4*>(at) = make_uint4(pack(x[0], x[1]), pack(x[2], x[3]), pack(x[4], x[5]), pack(x[6], x[7]));
}
__device__ __forceinline__ void put8(float* at, const float (&x)[8]) {
  reinterpret_cast<float4*>(at)[0] = make_float4(x[0], x[1], x[2], x[3]);
  reinterpret_cast<float4*>(at)[1] = make_float4(x[4], x[5], x[6], x[7]);
}

// Eight elements from `at` on, STRIDE apart, of which `there` exist. WIDE: they are neighbours, aligned, and all there.
template <bool WIDE, typename T>
__device__ __forceinline__ void read8(const T* at, u32 stride, int there, float (&x)[8]) {
  if constexpr (WIDE) {
    take8(at, x);
  } else {
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] = i < there ? to_float(at[i * stride]) : 0.0f;
  }
}
template <bool WIDE, typename T>
__device__ __forceinline__ void write8(T* at, int there, const float (&x)[8]) {
  if constexpr (WIDE) {
    put8(at, x);
  } else {
#pragma unroll
    for (int i = 0; i < 8; i++)
      if (i < there) put(at + i, x[i]);
  }
}

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

__device__ __forceinline__ u32 cube_number() { return blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z); }

// Sum over dimensions of index times stride; `number` is unravelled by the sizes at `dims`, the strides are at `strides`.
template <int RANK>
__device__ __forceinline__ u32 distance(const u32* sizes, u32 number, int dims, int strides) {
  u32 sum = 0;
#pragma unroll
  for (int d = RANK - 1; d > 0; d--) {
    u32 size = sizes[dims + d], quotient = number / size;
    sum += (number - quotient * size) * sizes[strides + d];
    number = quotient;
  }
  return RANK > 0 ? sum + number * sizes[strides] : 0;
}
