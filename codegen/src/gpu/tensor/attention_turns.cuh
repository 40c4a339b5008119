// Attention with `wgmma` whose tiles four warps bring for all others, so that two sets of four that multiply need not go in step: they take turns at
// the tensor cores, and one makes weights of its scores while the other multiplies (Shah et al., FlashAttention-3, 2024, section 3.1).

constexpr int BRINGERS = 128, UNITS = BRINGERS + THREADS;
constexpr int BARRIERS_AT = Q_BYTES + 4 * TILE_BYTES;
static_assert(ROW_TILES == 1 && WARPS_K == 1 && WARPS_Q == 8 && THREADS == 256, "four warps have 64 queries, and two sets take turns");

// A barrier that a tile is there and one that all warps have read it, for each of two places of keys, then of values.
struct Places {
  u32 barriers, shared;
  __device__ __forceinline__ u32 there(u32 kind, u32 step) const { return barriers + (kind * 2 + step % 2) * 16; }
  __device__ __forceinline__ u32 free(u32 kind, u32 step) const { return there(kind, step) + 8; }
  __device__ __forceinline__ u32 at(u32 kind, u32 step) const { return shared + Q_BYTES + (kind * 2 + step % 2) * TILE_BYTES; }
  // How often a place was gone through before.
  static __device__ __forceinline__ u32 round(u32 step) { return step / 2 % 2; }
};
enum { KEY_TILES, VALUE_TILES };

// Brings all tiles of a kind, each once its place is free. Keys and values come by warps of their own, because sets that take turns free them at
// different times.
__device__ __forceinline__ void bring_tiles(const Places& places, u32 kind, u32 steps, const Source& source, const Work& w) {
#pragma unroll 1
  for (u32 step = 0; step < steps; step++) {
    barrier_wait(places.free(kind, step), Places::round(step) ^ 1);
    source.tile<BRINGERS / 2, BK>(places.at(kind, step), w.from + step * BK, w.to, threadIdx.x % (BRINGERS / 2));
    copies_end();
    copies_wait<0>();
    copies_shown();
    barrier_tell(places.there(kind, step));
  }
}

extern "C" __global__ void __launch_bounds__(UNITS, 1) universal(PARAMETERS) {
  extern __shared__ __align__(1024) unsigned char memory[];
  const u32* sizes = info.scalars_u32;
  const Buffers buffers = {ARGUMENTS};
  in_turn();
  Work w;
  if (!work_of(w, buffers, sizes)) return;
  const u32 q_at = shared_address(memory), steps = (w.to - w.from + BK - 1) / BK;
  const Places places = {q_at + BARRIERS_AT, q_at};
  if (threadIdx.x == 0) {
    for (int b = 0; b < 4; b++) {
      barrier_init(places.barriers + b * 16, BRINGERS / 2);
      barrier_init(places.barriers + b * 16 + 8, WARPS);
    }
  }
  __syncthreads();
  if (threadIdx.x < BRINGERS) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 56;");
    Source keys, values;
    sources(keys, values, buffers, sizes, w);
    const bool of_keys = threadIdx.x < BRINGERS / 2;
    // Queries are there when the first keys are.
    if (of_keys && steps > 0) queries_tile<BRINGERS / 2>(q_at, buffers, sizes, w);
    bring_tiles(places, of_keys ? KEY_TILES : VALUE_TILES, steps, of_keys ? keys : values, w);
    return;
  }
  asm volatile("setmaxnreg.inc.sync.aligned.u32 224;");
  const u32 lane = threadIdx.x % 32, warp = (threadIdx.x - BRINGERS) / 32, set = warp / 4, other = 1 - set;
  // The 64 queries of these four warps.
  const u32 mine = q_at + set * 64 * 128;
  float result[1][COLUMNS][4] = {}, top[1][2] = {{FLOOR, FLOOR}}, sum[1][2] = {};
  if (steps > 0) {
    float score[1][KEYS][4], keep[2];
    u32 left[KEYS / 2][4];
    Held held;
    barrier_wait(places.there(KEY_TILES, 0), 0);
    held.take<BQ>(q_at, warp * 16);
    products_begin();
    dots<BQ, BK>(score[0], held, mine, places.at(KEY_TILES, 0));
    products_wait<0>();
    products_there(score[0]);
    if (lane == 0) barrier_tell(places.free(KEY_TILES, 0));
    if (HAS_TERMS || w.from + BK > w.to) hide(score, w.from + lane % 4 * 2, buffers, sizes, w);
    soften(score[0], top[0], sum[0], keep);
    factors_of(left, score[0]);
    if (set == 1 && steps > 1) turn_give(other);

#pragma unroll 1
    for (u32 step = 0; step + 1 < steps; step++) {
      const u32 first = w.from + (step + 1) * BK;
      barrier_wait(places.there(KEY_TILES, step + 1), Places::round(step + 1));
      barrier_wait(places.there(VALUE_TILES, step), Places::round(step));
      turn_take(set);
      products_begin();
      dots<BQ, BK>(score[0], held, mine, places.at(KEY_TILES, step + 1));
      spread<BK>(result[0], left, places.at(VALUE_TILES, step));
      // The first set has begun, so its turns are one ahead.
      if (set == 0 || step + 2 < steps) turn_give(other);
      products_wait<1>();
      products_there(score[0]);
      if (lane == 0) barrier_tell(places.free(KEY_TILES, step + 1));
      if (HAS_TERMS || first + BK > w.to) hide(score, first + lane % 4 * 2, buffers, sizes, w);
      soften(score[0], top[0], sum[0], keep);
      products_wait<0>();
      products_there(result[0]);
      if (lane == 0) barrier_tell(places.free(VALUE_TILES, step));
      weigh(result[0], keep);
      factors_of(left, score[0]);
    }
    barrier_wait(places.there(VALUE_TILES, steps - 1), Places::round(steps - 1));
    products_begin();
    spread<BK>(result[0], left, places.at(VALUE_TILES, steps - 1));
    products_wait<0>();
    products_there(result[0]);
  }
#pragma unroll
  for (int half = 0; half < 2; half++) sum[0][half] = sum_of_four(sum[0][half]);
  finish(result, top, sum, warp, buffers, sizes, w);
}
