// What the kernels share whose tiles the copy engine (TMA) brings.
//
// A cube has sets of four warps, which multiply 64 MI rows of a tile each, and four warps more, one thread of which asks for tiles: STAGES of them are
// in shared memory or on their way, each with a barrier that counts its bytes and one that counts the warps that have read it. Sizes are those of
// `kernels::product`, with one batch. Two cubes that share columns and have them sent to both (multicast) gained no more than a hundredth on an H200,
// in the two products tried.

constexpr int READERS = WARPS_M;                // warps that multiply a tile
constexpr int SETS = TURNS ? 2 : READERS / 4;   // sets that multiply: those of a tile, or two that have every second tile of the result
constexpr int THREADS = 128 * (SETS + 1), STRIPS = BN / STRIP;
static_assert(READERS % 4 == 0 && BM == MI * READERS * 16 && WARPS_N == 1 && BN % STRIP == 0, "four warps have 64 whole rows, MI times");
constexpr int STRIPS_AT = STAGES * STAGE_BYTES, BARRIERS_AT = STRIPS_AT + SETS * 4 * 16 * PITCH * 4;

// A matrix will be asked for: the copy engine reads what it was told of it ahead.
__device__ __forceinline__ void announce(const TensorMap& map) { asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory"); }
// A box of a matrix.
__device__ __forceinline__ void bring(u32 to, const TensorMap& map, u32 inner, u32 outer, u32 barrier) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(to), "l"(&map), "r"(inner), "r"(outer), "r"(barrier) : "memory");
}

// A place in the ring of stages, and how often it was gone round.
struct Ring {
  u32 stage = 0, phase = 0;
  __device__ __forceinline__ void next() {
    stage = stage == STAGES - 1 ? 0 : stage + 1;
    phase ^= stage == 0;
  }
  __device__ __forceinline__ void skip(u32 places) {
    const u32 at = stage + places;
    phase ^= at / STAGES & 1, stage = at % STAGES;
  }
};

// The tiles on their way, as this thread has gone through them: those of the depth from `slice` on, every SLICES-th; one of zeros where there is none.
struct Pipeline {
  u32 shared, full, empty, slice, steps;
  Ring ring;

  __device__ __forceinline__ Pipeline(const void* memory, u32 slice, u32 k) : shared(shared_address(memory)), full(shared + BARRIERS_AT), empty(full + STAGES * 8), slice(slice), steps(max(((k + BK - 1) / BK + SLICES - 1 - slice) / SLICES, 1u)) {
    if (threadIdx.x == 0) {
      for (int s = 0; s < STAGES; s++) {
        barrier_init(full + s * 8, 1);
        barrier_init(empty + s * 8, READERS);
      }
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
  }

  // Has what a part of the result needs of the right factor brought to the second-level cache, while earlier kernels may still run: where a cube has one
  // part, that is most of what it reads, and mostly weights. Lines of 128 bytes of the first steps, by three warps that have nothing else to do.
  __device__ __forceinline__ void foresee(const half_t* right, const u32* sizes, const Part& part) {
    constexpr int ACROSS = B_ALONG ? BN : BN / 64, LINES = B_ALONG ? BN : BK * ACROSS, MOST = 64;
    const u32 of_column = sizes[AT_B + 1 + BATCH_RANK], of_depth = sizes[AT_B + 2 + BATCH_RANK];
    for (u32 step = 0; step < min(steps, u32(MOST)); step++)
      for (u32 line = threadIdx.x % 128 - 32; line < LINES; line += 96) {
        const u32 column = part.first_column + line % ACROSS * (B_ALONG ? 1 : 64), depth = (step * SLICES + slice) * BK + line / ACROSS;
        if (column < sizes[2] && depth < sizes[3]) asm volatile("prefetch.global.L2 [%0];" ::"l"(right + column * of_column + depth * of_depth));
      }
  }

  // Asks for what a part of the result needs: one thread.
  __device__ __forceinline__ void ask(const TensorMap& a_map, const TensorMap& b_map, const Part& part) {
    for (u32 step = 0; step < steps; step++, ring.next()) {
      const u32 a_at = shared + ring.stage * STAGE_BYTES, b_at = a_at + A_BYTES, there = full + ring.stage * 8, depth = (step * SLICES + slice) * BK;
      barrier_wait(empty + ring.stage * 8, ring.phase ^ 1);
      barrier_expect(there, STAGE_BYTES);
      if constexpr (A_ALONG) {
        bring(a_at, a_map, depth, part.first_row, there);
      } else {
#pragma unroll
        for (int i = 0; i < BM / 64; i++) bring(a_at + i * BK * 128, a_map, part.first_row + i * 64, depth, there);
      }
      if constexpr (B_ALONG) {
        bring(b_at, b_map, depth, part.first_column, there);
      } else {
#pragma unroll
        for (int i = 0; i < BN / 64; i++) bring(b_at + i * BK * 128, b_map, part.first_column + i * 64, depth, there);
      }
    }
  }

  // Multiplies what was asked for: four warps, from the `group`-th 64 rows of a tile on. `meanwhile` is done once all tiles have been waited for, before
  // their last products are.
  template <typename F>
  __device__ __forceinline__ void multiply(float (&sums)[MI][NI][4], u32 group, const F& meanwhile) {
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
      for (int j = 0; j < NI; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) sums[i][j][e] = 0.0f;
    u32 before = 0;
    // At least one: where the first turn may be left out the assembler makes products wait.
    u32 step = 0;
#pragma unroll 1
    do {
      barrier_wait(full + ring.stage * 8, ring.phase);
      const u32 a_at = shared + ring.stage * STAGE_BYTES;
      products_begin();
#pragma unroll
      for (int i = 0; i < MI; i++) multiply_tile(sums[i], a_at, a_at + A_BYTES, group + i);
      products_end();
      // The products of the tile before are done: its place is free.
      products_wait<1>();
      if (step > 0 && threadIdx.x % 32 == 0) barrier_tell(empty + before * 8);
      before = ring.stage;
      step++, ring.next();
    } while (step < steps);
    meanwhile();
    products_wait<0>();
#pragma unroll
    for (int i = 0; i < MI; i++) products_there(sums[i]);
    if (threadIdx.x % 32 == 0) barrier_tell(empty + before * 8);
  }
};
