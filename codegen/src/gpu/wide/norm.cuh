// LayerNorm, RMSNorm and the modulated LayerNorm.

extern "C" __global__ void __launch_bounds__(UNITS) universal(PARAMETERS) {
  __shared__ float sums[WARPS], squares[WARPS];
  const u32* sizes = info.scalars_u32;
  const Buffers buffers = {ARGUMENTS};
  in_turn();
  const u32 row = cube_number(), d = sizes[1];
  if (row >= sizes[0]) return;
  constexpr int AT_X = 2 + RANK, AT_SCALE = AT_X + 1 + RANK, AT_SHIFT = AT_SCALE + HAS_SCALE * (1 + RANK), AT_OUT = AT_SHIFT + HAS_SHIFT * (1 + RANK);
  float x[HELD][8], scale[HELD][8], shift[HELD][8], mean, r;
  take_row(X_BUFFER + sizes[AT_X] + distance<RANK>(sizes, row, 2, AT_X + 1), d, x);
  const auto fetch = [&](int n) {
    if constexpr (HAS_SCALE) take8(SCALE_BUFFER + sizes[AT_SCALE] + distance<RANK>(sizes, row, 2, AT_SCALE + 1) + place(n), scale[n]);
    if constexpr (HAS_SHIFT) take8(SHIFT_BUFFER + sizes[AT_SHIFT] + distance<RANK>(sizes, row, 2, AT_SHIFT + 1) + place(n), shift[n]);
  };
  if constexpr (AHEAD) ahead(d, fetch);
  normalise(x, d, sums, squares, mean, r);
#pragma unroll
  for (int n = 0; n < HELD; n++) {
    if (place(n) >= d) break;
    if constexpr (!AHEAD) fetch(n);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      if constexpr (HAS_SCALE) x[n][i] *= ONE_PLUS + scale[n][i];
      if constexpr (HAS_SHIFT) x[n][i] += shift[n][i];
    }
  }
  put_row(OUT_BUFFER + sizes[AT_OUT] + row * d, d, x);
}
