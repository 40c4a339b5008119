// Gradient of a normalisation to its input, and the row's mean and reciprocal deviation.

extern "C" __global__ void __launch_bounds__(UNITS) universal(PARAMETERS) {
  __shared__ float sums[WARPS], squares[WARPS], dots[WARPS], offsets[WARPS];
  const u32* sizes = info.scalars_u32;
  const Buffers buffers = {ARGUMENTS};
  in_turn();
  const u32 row = cube_number(), d = sizes[1];
  if (row >= sizes[0]) return;
  constexpr int AT_X = 2 + RANK, AT_G = AT_X + 1 + RANK, AT_FACTOR = AT_G + 1 + RANK, AT_OUT = AT_FACTOR + HAS_FACTOR * (1 + RANK);
  float x[HELD][8], g[HELD][8], factor[HELD][8];
  take_row(X_BUFFER + sizes[AT_X] + distance<RANK>(sizes, row, 2, AT_X + 1), d, x);
  take_row(G_BUFFER + sizes[AT_G] + distance<RANK>(sizes, row, 2, AT_G + 1), d, g);
  const auto fetch = [&](int n) {
    if constexpr (HAS_FACTOR) take8(FACTOR_BUFFER + sizes[AT_FACTOR] + distance<RANK>(sizes, row, 2, AT_FACTOR + 1) + place(n), factor[n]);
  };
  if constexpr (AHEAD) ahead(d, fetch);

  float mean, r;
  normalise(x, d, sums, squares, mean, r);
  // Sums of the scaled gradient, and of its products with the normalised row.
  float sum = 0.0f, dot = 0.0f;
#pragma unroll
  for (int n = 0; n < HELD; n++) {
    if (place(n) >= d) break;
    if constexpr (!AHEAD) fetch(n);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      if constexpr (HAS_FACTOR) g[n][i] *= ONE_PLUS + factor[n][i];
      sum += g[n][i];
      dot += g[n][i] * x[n][i];
    }
  }
  dot = sum_of_cube(dot, dots) / d;
  const float offset = CENTERED ? sum_of_cube(sum, offsets) / d : 0.0f;
#pragma unroll
  for (int n = 0; n < HELD; n++) {
    if (place(n) >= d) break;
#pragma unroll
    for (int i = 0; i < 8; i++) x[n][i] = r * (g[n][i] - offset - x[n][i] * dot);
  }
  put_row(OUT_BUFFER + sizes[AT_OUT] + row * d, d, x);
  if (threadIdx.x == 0) {
    put(STATS_BUFFER + sizes[AT_OUT + 1] + 2 * row, mean);
    put(STATS_BUFFER + sizes[AT_OUT + 1] + 2 * row + 1, r);
  }
}
