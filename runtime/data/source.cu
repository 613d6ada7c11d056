// What `source.py` makes on the host, made where the vocoder reads it: normals, sines and pulses.
//
// One thread makes the four numbers of one Philox block, or one sample of pulses. Phases come as `source.py` keeps them,
// one for the start of each frame, so nothing is summed here. Everything is float64 until it is stored. Numbers past
// `count` up to `total` are zeros: the padding of a bucket. Constants are those of `source.py`; a test compares them.

typedef unsigned long long u64;

#define TWO_PI 6.283185307179586
#define TURN 18446744073709551616.0  // 2^64
#define HARMONICS 9
#define SINE_AMPLITUDE 0.1
#define VOICED_NOISE 0.003
#define UNVOICED_NOISE (0.1 / 3)

typedef struct {
    u64 key[2], counter[2], skip;
} Stream;  // of normals, its first `skip` (fewer than four) left out

static __device__ u64 thread_number(void) {
    return (u64)blockIdx.x * blockDim.x + threadIdx.x;
}

// Philox 4x64-10 (Salmon et al. 2011), block `number` of numpy's `random_raw`, which counts up before the first.
static __device__ void philox(Stream stream, u64 number, u64 word[4]) {
    u64 c0 = stream.counter[0] + number + 1, c1 = stream.counter[1], c2 = 0, c3 = 0;
    u64 k0 = stream.key[0], k1 = stream.key[1];
    for (int round = 0; round < 10; round++) {
        u64 high0 = __umul64hi(0xD2E7470EE14C6C93ull, c0), low0 = 0xD2E7470EE14C6C93ull * c0;
        u64 high1 = __umul64hi(0xCA5A826395121157ull, c2), low1 = 0xCA5A826395121157ull * c2;
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9E3779B97F4A7C15ull;
        k1 += 0xBB67AE8584CAA73Bull;
    }
    word[0] = c0, word[1] = c1, word[2] = c2, word[3] = c3;
}

// `source._normal`: Box-Muller on pairs of words.
static __device__ void four_normals(Stream stream, u64 number, float normal[4]) {
    u64 word[4];
    philox(stream, number, word);
    for (int pair = 0; pair < 4; pair += 2) {
        double first = ((double)(word[pair] >> 11) + 0.5) * 0x1p-53;
        double second = ((double)(word[pair + 1] >> 11) + 0.5) * 0x1p-53;
        double radius = sqrt(-2.0 * log(first)), angle = TWO_PI * second;
        normal[pair] = (float)(radius * cos(angle));
        normal[pair + 1] = (float)(radius * sin(angle));
    }
}

#ifdef __cplusplus
extern "C" {
#endif

// `source._normals_from`.
__global__ void normals(float *out, u64 count, u64 total, Stream stream) {
    u64 number = thread_number();
    if (number * 4 >= total + stream.skip) return;
    float normal[4];
    four_normals(stream, number, normal);
    for (int lane = 0; lane < 4; lane++) {
        u64 n = number * 4 + lane - stream.skip;  // wraps to a huge number for what is left out
        if (n < total) out[n] = n < count ? normal[lane] : 0.0f;
    }
}

// `source.sines`. `frames`: phase at the start of each and its step from sample to sample, in 2^-64 cycles.
__global__ void sines(float *out, u64 count, u64 total, Stream stream, const u64 *frames, const double *phases, u64 hop) {
    u64 number = thread_number();
    if (number * 4 >= total + stream.skip) return;
    float normal[4];
    four_normals(stream, number, normal);
    for (int lane = 0; lane < 4; lane++) {
        u64 n = number * 4 + lane - stream.skip;
        if (n >= total) continue;
        if (n >= count) {
            out[n] = 0.0f;
            continue;
        }
        u64 sample = n / HARMONICS, harmonic = n % HARMONICS, frame = sample / hop;
        u64 step = frames[2 * frame + 1];
        u64 phase = (frames[2 * frame] + step * (sample % hop + 1)) * (harmonic + 1);
        double cycles = (double)phase / TURN + phases[harmonic];
        double sine = step ? SINE_AMPLITUDE * sin(TWO_PI * cycles) : 0.0;
        out[n] = (float)(sine + normal[lane] * (step ? VOICED_NOISE : UNVOICED_NOISE));
    }
}

// `source.pulses`, the same in each of `channels`. `frames`: phase at the start of each in cycles, and F0 in Hz.
__global__ void pulses(
    float *out, u64 count, u64 total, u64 channels, const double *frames, u64 hop, double sample_rate, double band_hz
) {
    u64 n = thread_number();
    if (n >= total) return;
    double value = 0.0;
    u64 sample = n / channels;
    double f0 = n < count ? frames[2 * (sample / hop) + 1] : 0.0;
    if (f0 > 0.0) {
        double harmonics = band_hz / f0, whole = floor(harmonics);
        double angle = TWO_PI * (frames[2 * (sample / hop)] + f0 * ((double)(sample % hop) / sample_rate));
        double half = sin(angle / 2.0);
        double sum = fabs(half) < 1e-9 ? whole - 1.0 : sin((whole - 0.5) * angle) / (2.0 * half) - 0.5;
        value = (sum + (harmonics - whole) * cos(whole * angle)) * sqrt(2.0 / harmonics);
    }
    out[n] = (float)value;
}

#ifdef __cplusplus
}
#endif
