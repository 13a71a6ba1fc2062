// Counts to network units (normalise) and back (restore), compiled by nvrtc for the card at hand.
// Both round exactly as refocusd.imaging.normalise.CountsRange does on the CPU.

// Where position p lies in a line of `filled` pixels, mirrored at its end.
__device__ int reflected(int p, int filled)
{
    if (p < filled) return p;
    if (filled == 1) return 0;
    const int period = 2 * (filled - 1);
    p %= period;
    return p < period - p ? p : period - p;
}

#define KERNELS(name, counts_t, top)                                                         \
extern "C" __global__ void normalise_##name(                                                 \
    const counts_t* frame, int frame_width, int row, int column, int rows, int columns,      \
    float offset, float inverse_scale, float* tile, int tile_height, int tile_width)         \
{                                                                                            \
    const int x = blockIdx.x * blockDim.x + threadIdx.x;                                     \
    const int y = blockIdx.y * blockDim.y + threadIdx.y;                                     \
    if (x >= tile_width || y >= tile_height) return;                                         \
    const long long from = (long long)(row + reflected(y, rows)) * frame_width               \
                         + column + reflected(x, columns);                                   \
    const float counts = (float)frame[from];                                                 \
    tile[(long long)y * tile_width + x] =                                                    \
        __fmul_rn(__fsub_rn(counts, offset), inverse_scale);                                 \
}                                                                                            \
                                                                                             \
extern "C" __global__ void restore_##name(                                                   \
    const float* tile, int tile_width, int top_row, int left_column,                         \
    counts_t* frame, int frame_width, int row, int column, int rows, int columns,            \
    float offset, float scale, unsigned int* tally)                                          \
{                                                                                            \
    const int x = blockIdx.x * blockDim.x + threadIdx.x;                                     \
    const int y = blockIdx.y * blockDim.y + threadIdx.y;                                     \
    if (x >= columns || y >= rows) return;                                                   \
    float value = tile[(long long)(top_row + y) * tile_width + left_column + x];             \
    value = rintf(__fadd_rn(__fmul_rn(value, scale), offset));                               \
    if (!(value - value == 0.0f)) {                                                          \
        atomicAdd(tally + 1, 1u);  /* neither NaN nor infinity */                            \
        value = 0.0f;                                                                        \
    } else if (value < 0.0f || value > top) {                                                \
        atomicAdd(tally, 1u);                                                                \
        value = value < 0.0f ? 0.0f : top;                                                   \
    }                                                                                        \
    frame[(long long)(row + y) * frame_width + column + x] = (counts_t)value;                \
}

KERNELS(u8, unsigned char, 255.0f)
KERNELS(u16, unsigned short, 65535.0f)
