// A matrix product with an epilogue on tensor cores whose tiles the copy engine brings. Cubes stay for all tiles of the result that are theirs, so that
// the next tile comes while this one's sums leave.

// Two sets have more registers than an equal share, what asks for tiles has fewer.
constexpr bool DEALT = SETS == 2;
static_assert(MI == 1, "a set has 64 rows");

// Does something with each part of the result that is this cube's. The number of all parts, computed before, would take a register throughout.
template <typename F>
__device__ __forceinline__ void each_part(const u32* sizes, const F& f) {
  for (u32 number = blockIdx.x; number / sizes[5] < sizes[4]; number += gridDim.x) f(Part(number, sizes[4], sizes[5]));
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) universal(PARAMETERS) {
  extern __shared__ __align__(1024) unsigned char memory[];
  const u32* sizes = info.scalars_u32;
  const Buffers buffers = {ARGUMENTS};
  const u32 set = threadIdx.x / 128;
  if (threadIdx.x == SETS * 128) announce(a_map), announce(b_map);
  Pipeline pipeline(memory, 0, sizes[3]);
  if (threadIdx.x / 32 > SETS * 4 && sizes[4] * sizes[5] <= gridDim.x) pipeline.foresee(B_BUFFER + sizes[AT_B], sizes, Part(blockIdx.x, sizes[4], sizes[5]));
  in_turn();
  if (set == SETS) {
    if constexpr (DEALT) asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x == SETS * 128) {
      each_part(sizes, [&](const Part& part) { pipeline.ask(a_map, b_map, part); });
    }
  } else {
    if constexpr (DEALT) asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    const u32 warp = threadIdx.x / 32;
    float* place = reinterpret_cast<float*>(memory + STRIPS_AT) + warp * (16 * PITCH);
    each_part(sizes, [&](const Part& part) {
      Ending<STRIPS> ending = {part.first_row + warp * 16, part.first_column};
      float sums[MI][NI][4];
      pipeline.multiply(sums, set, [&]() { ending.prepare(buffers, sizes); });
#pragma unroll
      for (int s = 0; s < STRIPS; s++) ending.strip(sums[0], s, place, buffers, sizes);
    });
  }
}
