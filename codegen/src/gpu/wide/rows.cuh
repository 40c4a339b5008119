// What kernels of rows share: a cube has a row, a unit has HELD times eight of its numbers in registers.

constexpr int WARPS = UNITS / 32;
// Whether what a row is multiplied with is read before its sums are there: where a unit has few numbers, because rows are few, nothing else hides how
// long that takes; elsewhere other cubes do, and registers are better used by more of them.
constexpr bool AHEAD = HELD <= 2;

// The first of a unit's numbers, the n-th time.
__device__ __forceinline__ u32 place(int n) { return (threadIdx.x + n * UNITS) * 8; }

// A unit's numbers of a row of `d`; 0 behind its end.
template <typename T>
__device__ __forceinline__ void take_row(const T* from, u32 d, float (&x)[HELD][8]) {
#pragma unroll
  for (int n = 0; n < HELD; n++) {
    if (place(n) < d) {
      take8(from + place(n), x[n]);
    } else {
#pragma unroll
      for (int i = 0; i < 8; i++) x[n][i] = 0.0f;
    }
  }
}

// Writes them, once nothing is left to read: a write is not known to leave alone what is read after it.
template <typename T>
__device__ __forceinline__ void put_row(T* to, u32 d, const float (&x)[HELD][8]) {
#pragma unroll
  for (int n = 0; n < HELD; n++)
    if (place(n) < d) put8(to + place(n), x[n]);
}

// Fetches what belongs to each of a unit's numbers of a row of `d`.
template <typename F>
__device__ __forceinline__ void ahead(u32 d, const F& fetch) {
#pragma unroll
  for (int n = 0; n < HELD; n++)
    if (place(n) < d) fetch(n);
}

// The sum over the units of a cube, always in the same order. `shared` holds a number for each warp and is used once.
__device__ __forceinline__ float sum_of_cube(float x, float (&shared)[WARPS]) {
#pragma unroll
  for (int apart = 16; apart > 0; apart /= 2) x += __shfl_xor_sync(0xffffffffu, x, apart);
  if constexpr (WARPS > 1) {
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    __syncthreads();
    x = 0.0f;
#pragma unroll
    for (int warp = 0; warp < WARPS; warp++) x += shared[warp];
  }
  return x;
}

// Takes the mean away, where the norm is CENTERED, and divides by the deviation: `r` is its reciprocal. `sums` and `squares` as `shared` above.
__device__ __forceinline__ void normalise(float (&x)[HELD][8], u32 d, float (&sums)[WARPS], float (&squares)[WARPS], float& mean, float& r) {
  mean = 0.0f;
  if constexpr (CENTERED) {
    float sum = 0.0f;
#pragma unroll
    for (int n = 0; n < HELD; n++)
#pragma unroll
      for (int i = 0; i < 8; i++) sum += x[n][i];
    mean = sum_of_cube(sum, sums) / d;
  }
  float square = 0.0f;
#pragma unroll
  for (int n = 0; n < HELD; n++) {
    if (place(n) >= d) break;
#pragma unroll
    for (int i = 0; i < 8; i++) {
      x[n][i] -= mean;
      square += x[n][i] * x[n][i];
    }
  }
  r = 1.0f / sqrtf(sum_of_cube(square, squares) / d + EPS);
#pragma unroll
  for (int n = 0; n < HELD; n++)
#pragma unroll
    for (int i = 0; i < 8; i++) x[n][i] *= r;
}
