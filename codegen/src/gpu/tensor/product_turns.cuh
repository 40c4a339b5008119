// A matrix product with an epilogue on tensor cores whose two sets of four warps take turns: each has every second tile of the result that is this
// cube's, all of its rows, and while the sums of one leave, the other multiplies (as NVIDIA's CUTLASS does in its "pingpong" kernels). What the copy
// engine brings follows the tiles of the result one by one, so a set begins once the other has waited for all of its own: a barrier tells the parity of
// its phase alone, and who waited two phases ahead would take one for the other.

// The FROM-th strip of 16 rows of sums.
typedef const float (&StripSums)[STRIP / 8][4];
__device__ __forceinline__ StripSums strip_of(const float (&sums)[NI][4], int from) { return reinterpret_cast<StripSums>(sums[from * (STRIP / 8)]); }

extern "C" __global__ void __launch_bounds__(THREADS, 1) universal(PARAMETERS) {
  extern __shared__ __align__(1024) unsigned char memory[];
  const u32* sizes = info.scalars_u32;
  const Buffers buffers = {ARGUMENTS};
  const u32 set = threadIdx.x / 128;
  if (threadIdx.x == SETS * 128) announce(a_map), announce(b_map);
  Pipeline pipeline(memory, 0, sizes[3]);
  in_turn();
  const u32 tiles = sizes[4] * sizes[5];
  if (set == SETS) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
    if (threadIdx.x == SETS * 128) {
      for (u32 number = blockIdx.x; number < tiles; number += gridDim.x) pipeline.ask(a_map, b_map, Part(number, sizes[4], sizes[5]));
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
    const u32 warp = threadIdx.x / 32;
    float* place = reinterpret_cast<float*>(memory + STRIPS_AT) + warp * (16 * PITCH);
    if (set == 1) pipeline.ring.skip(pipeline.steps);
    for (u32 number = blockIdx.x + set * gridDim.x; number < tiles; number += 2 * gridDim.x) {
      const Part part(number, sizes[4], sizes[5]);
      float sums[MI][NI][4];
      if (number >= gridDim.x) turn_take(set);
      pipeline.multiply(sums, 0, [&]() {
        if (number + gridDim.x < tiles) turn_give(1 - set);
      });
      pipeline.ring.skip(pipeline.steps);
#pragma unroll
      for (int i = 0; i < MI; i++)
#pragma unroll
        for (int s = 0; s < STRIPS; s++) {
          u32 row = part.first_row + i * 64 + warp % 4 * 16, column = part.first_column + s * STRIP;
          // Nothing that is computed of these is kept for the other strips: there are no registers for it.
          asm volatile("" : "+r"(row), "+r"(column));
          Ending<1> ending = {row, column};
          ending.prepare(buffers, sizes);
          ending.strip(strip_of(sums[i], s), 0, place, buffers, sizes);
        }
    }
  }
}
