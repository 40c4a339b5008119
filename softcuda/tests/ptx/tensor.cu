// cp.async, ldmatrix, mma.sync, wmma.
#include <cuda_fp16.h>
#include <cuda_bf16.h>
#include <mma.h>
#include <cuda_pipeline.h>
using namespace nvcuda;
extern "C" __global__ void cp_async_sum(const float* in, float* out, int tiles) {
    __shared__ alignas(16) float buf[2][128];
    int i = threadIdx.x;
    float sum = 0.0f;
    __pipeline_memcpy_async(&buf[0][i * 4], in + i * 4, 16);
    __pipeline_commit();
    for (int t = 0; t < tiles; t++) {
        if (t + 1 < tiles) __pipeline_memcpy_async(&buf[(t + 1) & 1][i * 4], in + (t + 1) * 128 + i * 4, 16);
        __pipeline_commit();
        __pipeline_wait_prior(1);
        __syncthreads();
        for (int k = 0; k < 4; k++) sum += buf[t & 1][k * 32 + i] * (float)(t + 1);
        __syncthreads();
    }
    out[i] = sum;
}
__device__ unsigned shared_address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }
// One warp: C[16x8] = A[16xK] B[8xK]^T with ldmatrix.
extern "C" __global__ void mma_bf16(const __nv_bfloat16* a, const __nv_bfloat16* b, float* c, int k) {
    __shared__ alignas(16) __nv_bfloat16 sa[16 * 16];
    __shared__ alignas(16) __nv_bfloat16 sb[8 * 16];
    int lane = threadIdx.x;
    float d[4] = {0, 0, 0, 0};
    for (int t = 0; t < k; t += 16) {
        for (int i = lane; i < 256; i += 32) sa[i] = a[(i / 16) * k + t + i % 16];
        for (int i = lane; i < 128; i += 32) sb[i] = b[(i / 16) * k + t + i % 16];
        __syncwarp();
        unsigned ra[4], rb[2];
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(ra[0]), "=r"(ra[1]), "=r"(ra[2]), "=r"(ra[3]) : "r"(shared_address(sa + (lane % 16) * 16 + (lane / 16) * 8)));
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(rb[0]), "=r"(rb[1]) : "r"(shared_address(sb + (lane % 8) * 16 + ((lane / 8) % 2) * 8)));
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(ra[0]), "r"(ra[1]), "r"(ra[2]), "r"(ra[3]), "r"(rb[0]), "r"(rb[1]));
        __syncwarp();
    }
    int g = lane / 4, q = lane % 4;
    c[g * 8 + q * 2] = d[0]; c[g * 8 + q * 2 + 1] = d[1];
    c[(g + 8) * 8 + q * 2] = d[2]; c[(g + 8) * 8 + q * 2 + 1] = d[3];
}
// B[KxN] row major, by ldmatrix.trans; f16 accumulators; fragments of A read directly.
extern "C" __global__ void mma_f16_trans(const __half* a, const __half* b, __half* c) {
    __shared__ alignas(16) __half sb[16 * 8];
    int lane = threadIdx.x, g = lane / 4, q = lane % 4;
    for (int i = lane; i < 128; i += 32) sb[i] = b[i];
    __syncthreads();
    unsigned ra[4], rb[2], d[2] = {0, 0};
    const unsigned* wa = (const unsigned*)a;
    ra[0] = wa[g * 8 + q]; ra[1] = wa[(g + 8) * 8 + q]; ra[2] = wa[g * 8 + q + 4]; ra[3] = wa[(g + 8) * 8 + q + 4];
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];" : "=r"(rb[0]), "=r"(rb[1]) : "r"(shared_address(sb + (lane % 16) * 8)));
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0,%1}, {%2,%3,%4,%5}, {%6,%7}, {%0,%1};" : "+r"(d[0]), "+r"(d[1]) : "r"(ra[0]), "r"(ra[1]), "r"(ra[2]), "r"(ra[3]), "r"(rb[0]), "r"(rb[1]));
    unsigned* wc = (unsigned*)c;
    wc[g * 4 + q] = d[0]; wc[(g + 8) * 4 + q] = d[1];
}
template <class E> __device__ void wmma_body(const E* a, const E* b, float* c, int n, int k) {
    wmma::fragment<wmma::matrix_a, 16, 16, 16, E, wmma::row_major> fa;
    wmma::fragment<wmma::matrix_b, 16, 16, 16, E, wmma::col_major> fb;
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> acc;
    wmma::fill_fragment(acc, 0.0f);
    int row = blockIdx.y * 16, col = blockIdx.x * 16;
    for (int t = 0; t < k; t += 16) {
        wmma::load_matrix_sync(fa, a + row * k + t, k);
        wmma::load_matrix_sync(fb, b + col * k + t, k);
        wmma::mma_sync(acc, fa, fb, acc);
    }
    for (int i = 0; i < acc.num_elements; i++) acc.x[i] *= 2.0f;
    wmma::store_matrix_sync(c + row * n + col, acc, n, wmma::mem_row_major);
}
extern "C" __global__ void wmma_f16(const __half* a, const __half* b, float* c, int n, int k) { wmma_body(a, b, c, n, k); }
extern "C" __global__ void wmma_bf16(const __nv_bfloat16* a, const __nv_bfloat16* b, float* c, int n, int k) { wmma_body(a, b, c, n, k); }
extern "C" __global__ void wmma_shared(const __half* a, const __half* b, float* c) {
    __shared__ alignas(32) __half sa[256], sb[256];
    __shared__ alignas(32) float sc[256];
    for (int i = threadIdx.x; i < 256; i += 32) { sa[i] = a[i]; sb[i] = b[i]; }
    __syncthreads();
    wmma::fragment<wmma::matrix_a, 16, 16, 16, __half, wmma::col_major> fa;
    wmma::fragment<wmma::matrix_b, 16, 16, 16, __half, wmma::row_major> fb;
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> acc;
    wmma::fill_fragment(acc, 0.0f);
    wmma::load_matrix_sync(fa, sa, 16);
    wmma::load_matrix_sync(fb, sb, 16);
    wmma::mma_sync(acc, fa, fb, acc);
    wmma::store_matrix_sync(sc, acc, 16, wmma::mem_col_major);
    __syncthreads();
    for (int i = threadIdx.x; i < 256; i += 32) c[i] = sc[i];
}
