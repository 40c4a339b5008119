// A step of the optimiser, and of the average where one is kept, all in place. A unit has HELD times four neighbours: so a warp's requests for single
// precision are whole lines. What is updated is read through the binding that is written.

constexpr u32 BLOCK = 4 * HELD * UNITS;

// Four neighbours, aligned.
__device__ __forceinline__ void take4(const half_t* at, float (&x)[4]) {
  const uint2 words = *reinterpret_cast<const uint2*>(at);
  x[0] = low(words.x), x[1] = high(words.x), x[2] = low(words.y), x[3] = high(words.y);
}
__device__ __forceinline__ void take4(const float* at, float (&x)[4]) {
  const float4 four = *reinterpret_cast<const float4*>(at);
  x[0] = four.x, x[1] = four.y, x[2] = four.z, x[3] = four.w;
}
__device__ __forceinline__ void put4(float* at, const float (&x)[4]) {
  *reinterpret_cast<float4*>(at) = make_float4(x[0], x[1], x[2], x[3]);
}

// The first of a unit's elements, the n-th time.
__device__ __forceinline__ u32 place(int n) { return cube_number() * BLOCK + (threadIdx.x + n * UNITS) * 4; }

// `1 - beta^t = 1 - e^x` for `x = t ln(beta)`, below zero: by its series near 0, where the difference would lose all digits.
__device__ __forceinline__ float correction(float t, float log) {
  const float x = t * log;
  float sum = 1.0f;
#pragma unroll
  for (int k = 12; k > 1; k--) sum = 1.0f + x * (1.0f / k) * sum;
  return x > -1.0f ? -x * sum : 1.0f - expf(x);
}

extern "C" __global__ void __launch_bounds__(UNITS) universal(PARAMETERS) {
  const u32* sizes = info.scalars_u32;
  const Buffers buffers = {ARGUMENTS};
  in_turn();
  const u32 count = sizes[0];
  // Blocks are compared: the elements of a surplus cube may have numbers beyond 32 bits.
  if (cube_number() > (count - 1) / BLOCK) return;

  // Everything is asked for before anything is used.
  float p[HELD][4] = {}, m[HELD][4] = {}, v[HELD][4] = {}, g[HELD][4] = {}, average[HELD][4] = {};
#pragma unroll
  for (int n = 0; n < HELD; n++) {
    const u32 at = place(n);
    if (at >= count) break;
    take4(M_BUFFER + (sizes[2] + at), m[n]);
    take4(V_BUFFER + (sizes[3] + at), v[n]);
    take4(G_BUFFER + (sizes[4] + at), g[n]);
    take4(P_BUFFER + (sizes[1] + at), p[n]);
    if constexpr (HAS_AVERAGE) take4(AVERAGE_BUFFER + (sizes[8] + at), average[n]);
  }

  // What all elements share, while their numbers are on the way.
  const float t = to_float(COUNT_BUFFER[sizes[5]]), rate = to_float(RATES_BUFFER[sizes[6]]), scale = to_float(SCALE_BUFFER[sizes[7]]);
  float way = 0.0f;
  if constexpr (HAS_AVERAGE) way = to_float(WAY_BUFFER[sizes[9]]);
  const float step = rate / correction(t, LOG1), root = 1.0f / sqrtf(correction(t, LOG2)), left = 1.0f - rate * DECAY;

#pragma unroll
  for (int n = 0; n < HELD; n++) {
    const u32 at = place(n);
    if (at >= count) break;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float d = g[n][i] * scale;
      m[n][i] = BETA1 * m[n][i] + KEEP1 * d;
      v[n][i] = BETA2 * v[n][i] + KEEP2 * d * d;
      p[n][i] = p[n][i] * left - step * m[n][i] / (sqrtf(v[n][i]) * root + EPS);
      if constexpr (HAS_AVERAGE) average[n][i] += (p[n][i] - average[n][i]) * way;
    }
    put4(M_BUFFER + (sizes[2] + at), m[n]);
    put4(V_BUFFER + (sizes[3] + at), v[n]);
    put4(P_BUFFER + (sizes[1] + at), p[n]);
    if constexpr (HAS_AVERAGE) put4(AVERAGE_BUFFER + (sizes[8] + at), average[n]);
  }
}
