// Attention with `wgmma`: the scores of one tile are computed while the values of the tile before it are added up, and weights are made of the former
// while the latter goes on.

static_assert(ROW_TILES == 1 && WARPS_K == 1 && WARPS_Q % 4 == 0, "four warps have 64 queries");

extern "C" __global__ void __launch_bounds__(THREADS, 1) universal(PARAMETERS) {
  extern __shared__ __align__(1024) unsigned char memory[];
  const u32* sizes = info.scalars_u32;
  const Buffers buffers = {ARGUMENTS};
  in_turn();
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  Work w;
  if (!work_of(w, buffers, sizes)) return;
  const u32 q_at = shared_address(memory), k_at = q_at + Q_BYTES, v_at = k_at + 2 * TILE_BYTES;
  // The 64 queries of these four warps.
  const u32 mine = q_at + warp / 4 * 64 * 128;
  Source keys, values;
  sources(keys, values, buffers, sizes, w);
  const u32 steps = (w.to - w.from + BK - 1) / BK;
  float result[1][COLUMNS][4] = {}, top[1][2] = {{FLOOR, FLOOR}}, sum[1][2] = {};
  if (steps > 0) {
    queries_tile<THREADS>(q_at, buffers, sizes, w);
    keys.tile<THREADS, BK>(k_at, w.from, w.to);
    copies_end();
    values.tile<THREADS, BK>(v_at, w.from, w.to);
    if (steps > 1) keys.tile<THREADS, BK>(k_at + TILE_BYTES, w.from + BK, w.to);
    copies_end();
    copies_wait<1>();
    copies_shown();
    __syncthreads();
    float score[1][KEYS][4], keep[2];
    u32 left[KEYS / 2][4];
    Held held;
    held.take<BQ>(q_at, warp * 16);
    products_begin();
    dots<BQ, BK>(score[0], held, mine, k_at);
    products_wait<0>();
    products_there(score[0]);
    if (HAS_TERMS || w.from + BK > w.to) hide(score, w.from + lane % 4 * 2, buffers, sizes, w);
    soften(score[0], top[0], sum[0], keep);
    factors_of(left, score[0]);

#pragma unroll 1
    for (u32 step = 0; step + 1 < steps; step++) {
      const u32 first = w.from + (step + 1) * BK, stage = step % 2 * TILE_BYTES, other = TILE_BYTES - stage;
      // The next keys and these values are there; all warps have done with these keys and the values before.
      copies_wait<0>();
      copies_shown();
      __syncthreads();
      products_begin();
      dots<BQ, BK>(score[0], held, mine, k_at + other);
      spread<BK>(result[0], left, v_at + stage);
      // The tensor cores are busy: time to ask for what comes next.
      if (step + 2 < steps) keys.tile<THREADS, BK>(k_at + stage, first + BK, w.to);
      values.tile<THREADS, BK>(v_at + other, first, w.to);
      copies_end();
      products_wait<1>();
      products_there(score[0]);
      if (HAS_TERMS || first + BK > w.to) hide(score, first + lane % 4 * 2, buffers, sizes, w);
      soften(score[0], top[0], sum[0], keep);
      products_wait<0>();
      products_there(result[0]);
      weigh(result[0], keep);
      factors_of(left, score[0]);
    }
    copies_wait<0>();
    copies_shown();
    __syncthreads();
    products_begin();
    spread<BK>(result[0], left, v_at + (steps - 1) % 2 * TILE_BYTES);
    products_wait<0>();
    products_there(result[0]);
  }
#pragma unroll
  for (int half = 0; half < 2; half++) sum[0][half] = sum_of_four(sum[0][half]);
  finish(result, top, sum, warp, buffers, sizes, w);
}
