// Element-wise work of a decoder layer in one pass over memory each, for bfloat16 and float16.
// Compiled by NVRTC for the GPU that is there, so without a header. Sums and functions in float32;
// each result is rounded once.

constexpr int GROUP = 16;  // threads that work on one head
constexpr int PER_THREAD = 4;
constexpr int MAX_STEPS = 2;  // heads of up to 2 * GROUP * PER_THREAD * MAX_STEPS values

struct Bfloat16 {
  static __device__ float read(unsigned short value) { return __uint_as_float(value << 16); }
  static __device__ unsigned short write(float value) {
    unsigned short result;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result) : "f"(value));
    return result;
  }
};

struct Float16 {
  static __device__ float read(unsigned short value) {
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value));
    return result;
  }
  static __device__ unsigned short write(float value) {
    unsigned short result;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result) : "f"(value));
    return result;
  }
};

template <typename Half>
__device__ void read_pair(unsigned int raw, float* values) {
  values[0] = Half::read(static_cast<unsigned short>(raw));
  values[1] = Half::read(static_cast<unsigned short>(raw >> 16));
}

template <typename Half>
__device__ unsigned int write_pair(const float* values) {
  return Half::write(values[0]) | static_cast<unsigned int>(Half::write(values[1])) << 16;
}

template <typename Half>
__device__ unsigned int silu_pair(unsigned int gates, unsigned int ups) {
  float gate[2], up[2];
  read_pair<Half>(gates, gate);
  read_pair<Half>(ups, up);
  for (int i = 0; i < 2; i++) gate[i] = gate[i] / (1.0f + __expf(-gate[i])) * up[i];
  return write_pair<Half>(gate);
}

// product = gate * sigmoid(gate) * up. num_vectors: of 8 values.
template <typename Half>
__device__ void silu_product(const uint4* gate, const uint4* up, uint4* product, long num_vectors) {
  const long place = blockIdx.x * static_cast<long>(blockDim.x) + threadIdx.x;
  if (place >= num_vectors) return;
  const uint4 gates = gate[place], ups = up[place];
  product[place] = make_uint4(silu_pair<Half>(gates.x, ups.x), silu_pair<Half>(gates.y, ups.y),
                              silu_pair<Half>(gates.z, ups.z), silu_pair<Half>(gates.w, ups.w));
}

// RMS norm of each head, then its rotary position (the column of its token in its row).
// Heads of query and key of one token lie behind each other in the grid.
template <typename Half>
__device__ void norm_rotary(const unsigned short* query, const unsigned short* key,
                            const float* query_weight, const float* key_weight,
                            const float* cosines, const float* sines, unsigned short* query_out,
                            unsigned short* key_out, long num_heads_in_all, int num_query_heads,
                            int num_key_heads, int head_size, int width, float epsilon) {
  const long place = (blockIdx.x * static_cast<long>(blockDim.x) + threadIdx.x) / GROUP;
  if (place >= num_heads_in_all) return;  // whole groups: blocks are multiples of them
  const int lane = threadIdx.x % GROUP;
  const int heads = num_query_heads + num_key_heads;
  const long token = place / heads;
  const int head = static_cast<int>(place % heads);
  const bool is_query = head < num_query_heads;
  const long start = (is_query ? token * num_query_heads + head
                               : token * num_key_heads + head - num_query_heads) * head_size;
  const unsigned short* from = (is_query ? query : key) + start;
  unsigned short* to = (is_query ? query_out : key_out) + start;
  const float* weight = is_query ? query_weight : key_weight;
  const int half = head_size / 2;

  float left[MAX_STEPS][PER_THREAD], right[MAX_STEPS][PER_THREAD];
  float squares = 0.0f;
#pragma unroll
  for (int step = 0; step < MAX_STEPS; step++) {
    const int column = (step * GROUP + lane) * PER_THREAD;
    if (column >= half) continue;
    const uint2 lefts = *reinterpret_cast<const uint2*>(from + column);
    const uint2 rights = *reinterpret_cast<const uint2*>(from + half + column);
    read_pair<Half>(lefts.x, left[step]);
    read_pair<Half>(lefts.y, left[step] + 2);
    read_pair<Half>(rights.x, right[step]);
    read_pair<Half>(rights.y, right[step] + 2);
#pragma unroll
    for (int i = 0; i < PER_THREAD; i++)
      squares += left[step][i] * left[step][i] + right[step][i] * right[step][i];
  }
  const unsigned int group = 0xffffu << (threadIdx.x % 32 / GROUP * GROUP);
#pragma unroll
  for (int apart = GROUP / 2; apart > 0; apart /= 2)
    squares += __shfl_xor_sync(group, squares, apart);
  const float scale = rsqrtf(squares / head_size + epsilon);

  const long angle = token % width * half;
#pragma unroll
  for (int step = 0; step < MAX_STEPS; step++) {
    const int column = (step * GROUP + lane) * PER_THREAD;
    if (column >= half) continue;
    float turned[2][PER_THREAD];
#pragma unroll
    for (int i = 0; i < PER_THREAD; i++) {
      const float one = left[step][i] * scale * weight[column + i];
      const float other = right[step][i] * scale * weight[half + column + i];
      const float cosine = cosines[angle + column + i], sine = sines[angle + column + i];
      turned[0][i] = one * cosine - other * sine;
      turned[1][i] = other * cosine + one * sine;
    }
    *reinterpret_cast<uint2*>(to + column) =
        make_uint2(write_pair<Half>(turned[0]), write_pair<Half>(turned[0] + 2));
    *reinterpret_cast<uint2*>(to + half + column) =
        make_uint2(write_pair<Half>(turned[1]), write_pair<Half>(turned[1] + 2));
  }
}

#define KERNELS(NAME, HALF)                                                                      \
  extern "C" __global__ void silu_product_##NAME(const uint4* gate, const uint4* up,             \
                                                 uint4* product, long num_vectors) {             \
    silu_product<HALF>(gate, up, product, num_vectors);                                          \
  }                                                                                              \
  extern "C" __global__ void norm_rotary_##NAME(                                                 \
      const unsigned short* query, const unsigned short* key, const float* query_weight,         \
      const float* key_weight, const float* cosines, const float* sines,                         \
      unsigned short* query_out, unsigned short* key_out, long num_heads_in_all,                 \
      int num_query_heads, int num_key_heads, int head_size, int width, float epsilon) {         \
    norm_rotary<HALF>(query, key, query_weight, key_weight, cosines, sines, query_out, key_out,  \
                      num_heads_in_all, num_query_heads, num_key_heads, head_size, width,        \
                      epsilon);                                                                  \
  }

KERNELS(bf16, Bfloat16)
KERNELS(fp16, Float16)
