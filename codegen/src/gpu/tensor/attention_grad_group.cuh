// Gradient of attention with `wgmma`: four warps multiply 64 kept rows with tiles of walked ones straight from shared memory. Weights are made of
// scores while the products of the second rows go on, slopes while the weighted rows are added up, and these go on into the next tile: three tiles
// have places, so that the one before may still be read while the one after comes.

static_assert(WARPS_WALKED == 1 && WARPS_KEPT % 4 == 0 && !OF_CONTEXT && !PARTED, "four warps have 64 rows, which meet all others");
constexpr int PLACES = 3;

// The place of the tile after the one at `stage`.
__device__ __forceinline__ u32 place_after(u32 stage, u32 first) {
  return stage == first + (PLACES - 1) * 2 * TILE_BYTES ? first : stage + 2 * TILE_BYTES;
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) universal(PARAMETERS) {
  extern __shared__ __align__(1024) unsigned char memory[];
  const u32* sizes = info.scalars_u32;
  const Buffers buffers = {ARGUMENTS};
  in_turn();
  const u32 row = threadIdx.x / 32 * 16;
  Work w;
  if (!work_of(w, buffers, sizes)) return;
  const u32 kept = shared_address(memory), walked = kept + 2 * KEPT_BYTES, mine = kept + row / 64 * (64 * 128);
  float2* const stats = reinterpret_cast<float2*>(memory + 2 * KEPT_BYTES + PLACES * 2 * TILE_BYTES);
  Source of[2];
  kept_rows(of, buffers, sizes, w);
  of[0].tile<THREADS, KEPT>(kept, w.first, w.end);
  of[1].tile<THREADS, KEPT, OF_QUERIES ? LANES : CHUNKS>(kept + KEPT_BYTES, w.first, w.end);
  copies_end();
  walked_rows(of, buffers, sizes, w, w.entry);
  const u32 steps = w.to > w.from ? (w.to - w.from + WALKED - 1) / WALKED : 0;
  if (steps > 0) {
    of[0].tile<THREADS, WALKED>(walked, w.from, w.to);
    of[1].tile<THREADS, WALKED>(walked + TILE_BYTES, w.from, w.to);
  }
  copies_end();
  // Queries are held; keys are not, because their gradients, which are two, leave no registers.
  Held first_kept, second_kept;
  if constexpr (OF_QUERIES) {
    Results results;
    results.fetch(buffers, sizes, w.entry, w.head, w.first, w.end);
    copies_wait<1>();
    results.put(stats, kept + KEPT_BYTES);
    __syncthreads();
    first_kept.take<KEPT>(kept, row), second_kept.take<KEPT>(kept + KEPT_BYTES, row);
  }

  float result[COLUMNS][4] = {}, values[COLUMNS][4] = {}, weight[OTHERS][4], slope[OTHERS][4];
  u32 left[OTHERS / 2][4], left_values[OTHERS / 2][4], hidden = 0, stage = walked;
  Pairs pairs = {w.entry, row, w.from, 0, stats, nullptr};
  // The weights of a tile, and the products of its second rows.
  const auto weigh = [&](u32 step) {
    pairs.start = w.from + step * WALKED;
    copies_wait<0>();
    copies_shown();
    // This tile is there; all warps have done with what was written down of the one before it, and with the rows of the one before that.
    __syncthreads();
    products_begin();
    dots<KEPT, WALKED>(weight, first_kept, mine, stage);
    dots<KEPT, WALKED>(slope, second_kept, mine + KEPT_BYTES, stage + TILE_BYTES);
    // Those of the tile before are done, and their factors' registers free.
    products_wait<2>();
    // The tensor cores are busy: time to ask for what comes next, and for what is known of this tile's queries.
    if (step + 1 < steps) {
      const u32 next = pairs.start + WALKED, place = place_after(stage, walked);
      of[0].tile<THREADS, WALKED>(place, next, w.to);
      of[1].tile<THREADS, WALKED>(place + TILE_BYTES, next, w.to);
    }
    copies_end();
    if constexpr (!OF_QUERIES) {
      Results results;
      results.fetch(buffers, sizes, w.entry, w.head, pairs.start, w.to);
      results.put(stats, stage + TILE_BYTES);
      __syncthreads();
    }
    products_wait<1>();
    products_there(weight);
    hidden = pairs.weights(weight, buffers, sizes, w);
    if constexpr (!OF_QUERIES) factors_of(left_values, weight);
    products_wait<0>();
    products_there(slope);
  };
  // Adds what this tile gives: products that go on into the next one.
  const auto add = [&]() {
    if constexpr (!OF_QUERIES) {
      products_begin();
      spread<WALKED>(values, left_values, stage + TILE_BYTES);
    }
    pairs.slopes(slope, weight, hidden);
    factors_of(left, slope);
    products_begin();
    spread<WALKED>(result, left, stage);
  };
  // No product is under way where the loop turns: the assembler would make all of them wait.
  if (steps > 0) weigh(0);
#pragma unroll 1
  for (u32 step = 1; step < steps; step++) {
    add();
    stage = place_after(stage, walked);
    weigh(step);
  }
  if (steps > 0) add();
  copies_wait<0>();
  products_wait<0>();
  products_there(result);
  products_there(values);
  finish(result, values, row, buffers, sizes, w);
}
