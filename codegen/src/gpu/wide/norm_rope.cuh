// RMSNorm of a row, then rotary position embedding. Heads are whole by eights, so that a unit's four pairs are one head's.

extern "C" __global__ void __launch_bounds__(UNITS) universal(PARAMETERS) {
  __shared__ float sums[WARPS], squares[WARPS];
  const u32* sizes = info.scalars_u32;
  const Buffers buffers = {ARGUMENTS};
  in_turn();
  const u32 row = cube_number(), d = sizes[1];
  if (row >= sizes[0]) return;
  constexpr int AT_X = 2 + RANK, AT_OUT = AT_X + 1 + RANK, LENGTH = AT_OUT + 1, PAIRS = AT_OUT + 2, AT_WEIGHT = AT_OUT + 3, AT_TABLE = AT_OUT + 4;
  float x[HELD][8], mean, r;
  take_row(X_BUFFER + sizes[AT_X] + distance<RANK>(sizes, row, 2, AT_X + 1), d, x);
  const u32 head = 2 * sizes[PAIRS], turns = sizes[AT_TABLE] + row % sizes[LENGTH] * head;
  // Cosine and sine of each pair.
  float weight[HELD][8], turn[HELD][8];
  const auto fetch = [&](int n) {
    take8(WEIGHT_BUFFER + sizes[AT_WEIGHT] + place(n), weight[n]);
    take8(TABLE_BUFFER + turns + place(n) % head, turn[n]);
  };
  if constexpr (AHEAD) ahead(d, fetch);
  normalise(x, d, sums, squares, mean, r);
#pragma unroll
  for (int n = 0; n < HELD; n++) {
    if (place(n) >= d) break;
    if constexpr (!AHEAD) fetch(n);
#pragma unroll
    for (int i = 0; i < 8; i += 2) {
      const float even = x[n][i] * weight[n][i], odd = x[n][i + 1] * weight[n][i + 1];
      x[n][i] = even * turn[n][i] - odd * turn[n][i + 1];
      x[n][i + 1] = even * turn[n][i + 1] + odd * turn[n][i];
    }
  }
  put_row(OUT_BUFFER + sizes[AT_OUT] + row * d, d, x);
}
