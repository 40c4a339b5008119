// What all texts share: numbers, eight of them at a time, and where they are. No header is included: a kernel compiles in a fraction of a second and
// wherever NVRTC alone is. The lines above this one, made from the blueprint, define HALF_F16 (or not) and the constants.

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
