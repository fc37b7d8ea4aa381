/* Four operators of the domain "shardrank" for ONNX Runtime's CPU provider, in float32.
 *
 *   RowQuantize(values; rotation) -> integers, scales
 *   SumNorm(residual, values, weight, scales?; epsilon) -> normed, sum
 *   SiluProduct(gate, up, scales?) -> product
 *   PackedAttention(query, key, value, query_weight, key_weight, cosines, sines, ends,
 *                   past_key, past_value, scales?; epsilon) -> attended, present_key, present_value
 *
 * Values are [tokens, n]; scales [tokens, 1] multiply what the matrix products gave: values, gate
 * and up, or query, key and value. What a token gets depends on that token and those before it in its row
 * alone, bit for bit: sums run in the order of channels and of absolute positions, whatever else is
 * in the run and however much of a row is past.
 *
 * Compiled for the processor that is there (-march=native): vectors of 16 values become whatever
 * registers it has. With AVX512_BF16 the attention multiplies in bfloat16 and adds up in float32, as
 * the model was trained; else in float32.
 */
#include <math.h>
#include <pthread.h>
#include <string.h>

#include "runtime.h"
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

enum { LANES = 16, ROWS = 8, COLUMNS = 2 * LANES };
typedef float Vector __attribute__((vector_size(64)));
typedef float Loose __attribute__((vector_size(64), aligned(4)));
typedef int Integers __attribute__((vector_size(64)));
typedef unsigned Unsigned __attribute__((vector_size(64)));
typedef uint8_t Bytes __attribute__((vector_size(16)));

static inline Vector load(const float* from) { return *(const Loose*)from; }
static inline void store(float* to, Vector values) { *(Loose*)to = values; }
static inline Vector all(float value) { return value - (Vector){0}; }
static inline Vector larger(Vector a, Vector b) {
  Integers is = a > b;
  return (Vector)((is & (Integers)a) | (~is & (Integers)b));
}
/* Lanes whose numbers differ in the bit k change places. */
#define ORDER(k)                                                                              \
  0 ^ k, 1 ^ k, 2 ^ k, 3 ^ k, 4 ^ k, 5 ^ k, 6 ^ k, 7 ^ k, 8 ^ k, 9 ^ k, 10 ^ k, 11 ^ k, 12 ^ k, \
      13 ^ k, 14 ^ k, 15 ^ k
#ifdef __clang__
#define SWAPPED(v, k) __builtin_shufflevector(v, v, ORDER(k))
#else
#define SWAPPED(v, k) __builtin_shuffle(v, (Integers){ORDER(k)})
#endif
static inline float largest_of(Vector v) {
  v = larger(v, SWAPPED(v, 8));
  v = larger(v, SWAPPED(v, 4));
  v = larger(v, SWAPPED(v, 2));
  return larger(v, SWAPPED(v, 1))[0];
}
static inline float sum_of(Vector v) {
  v += SWAPPED(v, 8);
  v += SWAPPED(v, 4);
  v += SWAPPED(v, 2);
  return (v + SWAPPED(v, 1))[0];
}

/* e^x to 2 units in the last place; 0 below -87, and as for 88 above (Cephes' polynomial). */
static inline Vector exponential(Vector x) {
  Integers is_tiny = x < -87.0f;
  x = -larger(-x, all(-88.0f));
  x = larger(x, all(-87.5f));
  Vector shifted = x * 1.44269504f + 12582912.0f; /* rounds to a whole number */
  Vector whole = shifted - 12582912.0f;
  Vector rest = x - whole * 0.693359375f + whole * 2.12194440e-4f;
  Vector sum = rest * 1.9875691500e-4f + 1.3981999507e-3f;
  sum = sum * rest + 8.3334519073e-3f;
  sum = sum * rest + 4.1665795894e-2f;
  sum = sum * rest + 1.6666665459e-1f;
  sum = sum * rest + 5.0000001201e-1f;
  sum = sum * rest * rest + rest + 1.0f;
  Integers power = ((Integers)shifted - 0x4b400000 + 127) << 23;
  return (Vector)(~is_tiny & (Integers)(sum * (Vector)power));
}

/* ---- RowQuantize: uint8 with zero at 128, one scale a token; blocks of `rotation` channels are
 * multiplied by Sylvester's matrix before (graph/rotation.py, graph/quantize.py). ---- */
static inline Vector butterfly(Vector values, Vector swapped, Vector signs) {
  return values * signs + swapped;
}

/* One block of 32 channels, in registers. */
static inline void rotate_32(const float* from, float* to) {
  static const Vector ones = {1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1};
  static const Vector twos = {1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1};
  static const Vector fours = {1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1};
  static const Vector eights = {1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1};
  Vector halves[2] = {load(from), load(from + LANES)};
  for (int i = 0; i < 2; i++) {
    Vector v = halves[i];
    v = butterfly(v, SWAPPED(v, 1), ones);
    v = butterfly(v, SWAPPED(v, 2), twos);
    v = butterfly(v, SWAPPED(v, 4), fours);
    halves[i] = butterfly(v, SWAPPED(v, 8), eights);
  }
  store(to, halves[0] + halves[1]);
  store(to + LANES, halves[0] - halves[1]);
}

static void rotate(const float* from, int64_t number, int64_t size, float* values) {
  if (size == 2 * LANES) {
    for (int64_t i = 0; i < number; i += 2 * LANES) rotate_32(from + i, values + i);
    return;
  }
  memcpy(values, from, number * sizeof *values);
  for (int64_t apart = 1; apart < size; apart *= 2)
    for (int64_t block = 0; block < number; block += 2 * apart)
      for (int64_t i = block; i < block + apart; i++) {
        float left = values[i], right = values[i + apart];
        values[i] = left + right;
        values[i + apart] = left - right;
      }
}

static void quantize_row(const float* values, int64_t number, float* scale, uint8_t* integers) {
  Vector most = all(0.0f), nothing = all(0.0f);
  for (int64_t i = 0; i < number; i += LANES) {
    Vector each = load(values + i);
    most = larger(most, larger(each, -each));
    nothing += each * 0.0f;
  }
  /* What is not a number, or infinite, makes the whole token so. */
  *scale = largest_of(most) / 127.0f;
  *scale = (*scale < 1e-30f ? 1e-30f : *scale) + sum_of(nothing);
  const float per = 1.0f / *scale;
  for (int64_t i = 0; i < number; i += LANES) {
    /* 1.5 x 2^23 rounds half to even, and leaves the integer, 128 added, in the last bits. */
    Integers rounded = (Integers)(load(values + i) * per + 12583040.0f);
    Bytes few = __builtin_convertvector(rounded & 255, Bytes);
    memcpy(integers + i, &few, sizeof few);
  }
}

/* ---- PackedAttention ---- */
#ifdef __AVX512BF16__
typedef uint16_t Stored; /* bfloat16 */
enum { TOGETHER = 2 };   /* factors that one instruction multiplies and adds to one sum */
typedef uint16_t Halves __attribute__((vector_size(32), aligned(2)));
static inline Vector multiply_add(const Stored* factors, const Stored* pair, Vector sum) {
  int both;
  memcpy(&both, pair, sizeof both);
  return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_loadu_si512(factors),
                                  (__m512bh)_mm512_set1_epi32(both));
}
static inline void shorten(Stored* to, Vector values) {
  _mm256_storeu_si256((__m256i*)to, (__m256i)_mm512_cvtneps_pbh((__m512)values));
}
/* [2][16] to [16][2]. */
static inline void interleave(const Stored* one, const Stored* other, Stored* to) {
  Unsigned low = __builtin_convertvector(*(const Halves*)one, Unsigned);
  Unsigned high = __builtin_convertvector(*(const Halves*)other, Unsigned);
  low |= high << 16;
  memcpy(to, &low, sizeof low);
}
#else
typedef float Stored;
enum { TOGETHER = 1 };
static inline Vector multiply_add(const Stored* factors, const Stored* one, Vector sum) {
  return sum + load(factors) * *one;
}
static inline void shorten(Stored* to, Vector values) { store(to, values); }
static inline void interleave(const Stored* one, const Stored* other, Stored* to) {
  (void)other;
  store(to, load(one));
}
#endif

typedef struct {
  const float *query, *key, *value, *query_weight, *key_weight, *cosines, *sines;
  const float *past_key, *past_value, *scales;
  const int64_t* ends;
  float *attended, *present_key, *present_value;
  int64_t num_rows, num_past, past_rows, num_tokens, longest;
  int heads, key_heads, size;
  float epsilon;
  int failed;
  /* Heads of all tokens, turned: [key heads][tokens][query heads of it][size], and without that
   * axis for keys and values. */
  Stored *queries, *keys, *values;
} Attention;

/* Memory that calls leave to each other: fresh pages cost more than a layer's packing. */
enum { MAX_SPARE = 64, LARGEST_SPARE = 8 << 20 };
typedef struct {
  void* memory;
  size_t num_bytes;
} Spare;
static Spare spares[MAX_SPARE];
static int num_spares;
static pthread_mutex_t spares_lock = PTHREAD_MUTEX_INITIALIZER;

static Spare take(size_t num_bytes) {
  Spare found = {NULL, 0};
  pthread_mutex_lock(&spares_lock);
  if (num_spares) found = spares[--num_spares];
  pthread_mutex_unlock(&spares_lock);
  if (found.num_bytes >= num_bytes) return found;
  free(found.memory);
  found.num_bytes = (num_bytes + num_bytes / 4 + 4095) / 4096 * 4096;
  found.memory = aligned_alloc(4096, found.num_bytes);
  return found;
}

static void give(Spare spare) {
  pthread_mutex_lock(&spares_lock);
  const int is_kept = spare.memory && spare.num_bytes <= LARGEST_SPARE && num_spares < MAX_SPARE;
  if (is_kept) spares[num_spares++] = spare;
  pthread_mutex_unlock(&spares_lock);
  if (!is_kept) free(spare.memory);
}

static int64_t round_up(int64_t number, int64_t multiple) {
  return (number + multiple - 1) / multiple * multiple;
}

/* Norm and rotary position of one head, whose values are yet to be multiplied by a scale; then
 * times a factor. whole: in float32 too, or NULL. */
static inline void turn(const float* from, const float* weight, const float* cosines,
                        const float* sines, int size, float epsilon, float scale, float factor,
                        Stored* to, float* whole) {
  Vector squares = all(0.0f);
  for (int i = 0; i < size; i += LANES) squares += load(from + i) * load(from + i);
  const float inverse = factor * scale / sqrtf(scale * scale * sum_of(squares) / size + epsilon);
  const int half = size / 2;
  for (int i = 0; i < half; i += LANES) {
    Vector left = load(from + i) * inverse * load(weight + i);
    Vector right = load(from + half + i) * inverse * load(weight + half + i);
    Vector cosine = load(cosines + i), sine = load(sines + i);
    Vector one = left * cosine - right * sine, other = right * cosine + left * sine;
    shorten(to + i, one);
    shorten(to + half + i, other);
    if (whole) {
      store(whole + i, one);
      store(whole + half + i, other);
    }
  }
}

/* Tokens that one task works on. */
enum { PIECE = 16 };

/* Every head of some tokens, read as they lie. */
static void turn_tokens(void* given, size_t index) {
  Attention* own = given;
  const int size = own->size, group = own->heads / own->key_heads;
  const float factor = 1.0f / sqrtf((float)size);
  const int64_t seen = own->num_past + own->longest;
  int64_t row = 0, start = 0;
  for (int64_t t = index * PIECE; t < own->num_tokens && t < (int64_t)(index + 1) * PIECE; t++) {
    while (t >= own->ends[row]) start = own->ends[row++];
    const int64_t position = own->num_past + t - start;
    const float scale = own->scales ? own->scales[t] : 1.0f;
    const float *cosines = own->cosines + position * size / 2;
    const float *sines = own->sines + position * size / 2;
    for (int h = 0; h < own->heads; h++) {
      const int64_t to = ((h / group * own->num_tokens + t) * group + h % group) * size;
      turn(own->query + (t * own->heads + h) * size, own->query_weight, cosines, sines, size,
           own->epsilon, scale, factor, own->queries + to, NULL);
    }
    for (int h = 0; h < own->key_heads; h++) {
      const int64_t at = (t * own->key_heads + h) * size, to = (h * own->num_tokens + t) * size;
      const int64_t present = (h * seen + position) * size;
      const int is_alone = own->num_rows == 1;
      turn(own->key + at, own->key_weight, cosines, sines, size, own->epsilon, scale,
           1.0f, own->keys + to, is_alone ? own->present_key + present : NULL);
      for (int i = 0; i < size; i += LANES) {
        Vector value = load(own->value + at + i) * scale;
        shorten(own->values + to + i, value);
        if (is_alone) store(own->present_value + present + i, value);
      }
    }
  }
}

/* Keys of a head as [blocks of 16 keys][channels / TOGETHER][16 keys][TOGETHER]. */
static void pack_key(const Stored* key, int64_t position, int size, Stored* packed) {
  Stored* to = packed + position / LANES * LANES * size + position % LANES * TOGETHER;
  for (int i = 0; i < size; i += TOGETHER, to += LANES * TOGETHER)
    memcpy(to, key + i, TOGETHER * sizeof *to);
}

/* Values of a head as [blocks of 32 channels][keys / TOGETHER][32 channels][TOGETHER]. */
static void pack_values(const Stored* one, const Stored* other, int64_t position, int size,
                        int64_t capacity, Stored* packed) {
  for (int i = 0; i < size; i += LANES)
    interleave(one + i, other + i,
               packed + i / COLUMNS * COLUMNS * capacity + position * COLUMNS + i % COLUMNS * TOGETHER);
}

/* scores[r][k] = queries[r] . keys[k] for 8 rows and 32 keys from `from`. */
static void score_block(const Stored* queries, const Stored* keys, int size, int64_t from,
                        int64_t stride, float* scores) {
  Vector sums[ROWS][2];
  for (int r = 0; r < ROWS; r++) sums[r][0] = sums[r][1] = all(0.0f);
  const Stored* one = keys + from * size;
  const Stored* other = one + LANES * size;
  for (int i = 0; i < size; i += TOGETHER) {
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) {
      sums[r][0] = multiply_add(one + i * LANES, queries + r * size + i, sums[r][0]);
      sums[r][1] = multiply_add(other + i * LANES, queries + r * size + i, sums[r][1]);
    }
  }
  for (int r = 0; r < ROWS; r++) {
    store(scores + r * stride + from, sums[r][0]);
    store(scores + r * stride + from + LANES, sums[r][1]);
  }
}

/* sums[r] = shares[r] . values over the first num_keys keys, for 8 rows and 32 channels. */
static void mix_block(const Stored* shares, const Stored* values, int64_t num_keys, int64_t stride,
                      Vector sums[ROWS][2]) {
  for (int r = 0; r < ROWS; r++) sums[r][0] = sums[r][1] = all(0.0f);
  for (int64_t k = 0; k < num_keys; k += TOGETHER) {
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) {
      const Stored* share = shares + r * stride + k;
      sums[r][0] = multiply_add(values + k * COLUMNS, share, sums[r][0]);
      sums[r][1] = multiply_add(values + k * COLUMNS + LANES * TOGETHER, share, sums[r][1]);
    }
  }
}

/* Scores to shares that sum to 1 times the returned value; those from `seen` on become 0. */
static float soften(float* scores, int64_t seen, int64_t num_keys, Stored* shares) {
  for (int64_t k = seen; k < num_keys; k++) scores[k] = -INFINITY;
  Vector most = all(-INFINITY);
  for (int64_t k = 0; k < num_keys; k += LANES) most = larger(most, load(scores + k));
  const float largest = largest_of(most);
  Vector total = all(0.0f);
  for (int64_t k = 0; k < num_keys; k += LANES) {
    Vector share = exponential(load(scores + k) - largest);
    total += share;
    shorten(shares + k, share);
  }
  return sum_of(total);
}

typedef struct {
  Stored *keys, *values, *shares, *queries, *pair;
  float* scores;
  int64_t capacity;
} Room;

/* Leaves the last value of an odd past in `pair`. */
static void pack_past(const Attention* own, int head, int64_t row, const Room* room) {
  const int size = own->size;
  const int64_t from = (row * own->key_heads + head) * own->num_past * size;
  for (int64_t p = 0; p < own->num_past; p++) {
    Stored* place = room->pair + p % 2 * size;
    for (int i = 0; i < size; i += LANES) shorten(place + i, load(own->past_key + from + p * size + i));
    pack_key(place, p, size, room->keys);
  }
  for (int64_t p = 0; p < own->num_past; p += TOGETHER) {
    for (int64_t k = p; k < p + TOGETHER; k++)
      for (int i = 0; i < size; i += LANES)
        shorten(room->pair + (k - p) * size + i,
                k < own->num_past ? load(own->past_value + from + k * size + i) : all(0.0f));
    pack_values(room->pair, room->pair + size, p, size, room->capacity, room->values);
  }
}

/* The new keys and values of a row behind its past, and zeros up to a whole number of columns:
 * those are multiplied by shares of zero, so they must be numbers. */
static void pack_new(const Attention* own, int head, int64_t start, int64_t num_new,
                     const Room* room) {
  const int size = own->size;
  const Stored* keys = own->keys + (head * own->num_tokens + start) * size;
  const Stored* values = own->values + (head * own->num_tokens + start) * size;
  for (int64_t t = 0; t < num_new; t++) pack_key(keys + t * size, own->num_past + t, size, room->keys);
  const int64_t last = round_up(own->num_past + num_new, COLUMNS);
  Stored* zeros = room->pair + size;
  memset(zeros, 0, size * sizeof *zeros);
  for (int64_t position = own->num_past / TOGETHER * TOGETHER; position < last;
       position += TOGETHER) {
    /* Where the past is odd, its last value shares a pair with the first new one. */
    const Stored* side[2] = {position < own->num_past ? room->pair : zeros, zeros};
    for (int k = 0; k < TOGETHER; k++) {
      const int64_t t = position + k - own->num_past;
      if (t >= 0 && t < num_new) side[k] = values + t * size;
    }
    pack_values(side[0], side[1], position, size, room->capacity, room->values);
  }
}

/* One key head and the query heads that share it, for every row of the run. */
static void attend_head(void* given, size_t index) {
  Attention* own = given;
  const int size = own->size, group = own->heads / own->key_heads, head = (int)index;
  Room room = {.capacity = round_up(own->num_past + own->longest, COLUMNS)};
  const size_t cached = room.capacity * size * sizeof(Stored);
  const size_t scored = ROWS * room.capacity * sizeof(float);
  const size_t held = ROWS * size * sizeof(Stored);
  Spare spare = take(2 * cached + 2 * scored + 2 * held);
  if (!spare.memory) {
    own->failed = 1;
    return;
  }
  char* place = spare.memory;
  room.keys = (Stored*)place, place += cached;
  room.values = (Stored*)place, place += cached;
  room.scores = (float*)place, place += scored;
  room.shares = (Stored*)place, place += scored;
  room.queries = (Stored*)place, place += held;
  room.pair = (Stored*)place;
  for (int64_t row = 0, start = 0; row < own->num_rows; start = own->ends[row++]) {
    const int64_t num_queries = (own->ends[row] - start) * group;
    if (own->num_past && (row == 0 || own->past_rows > 1)) pack_past(own, head, row, &room);
    pack_new(own, head, start, own->ends[row] - start, &room);
    const int64_t row_queries = (head * own->num_tokens + start) * group;
    for (int64_t first = 0; first < num_queries; first += ROWS) {
      const int64_t last = first + ROWS < num_queries ? first + ROWS : num_queries;
      const Stored* queries = own->queries + (row_queries + first) * size;
      if (last - first < ROWS) {
        memset(room.queries, 0, held);
        memcpy(room.queries, queries, (last - first) * size * sizeof *queries);
        queries = room.queries;
      }
      const int64_t num_shown = own->num_past + (last - 1) / group + 1;
      const int64_t num_keys = round_up(num_shown, COLUMNS);
      for (int64_t k = 0; k < num_keys; k += COLUMNS)
        score_block(queries, room.keys, size, k, room.capacity, room.scores);
      float totals[ROWS];
      for (int r = 0; r < ROWS; r++) {
        const int64_t query = first + r < last ? first + r : last - 1;
        totals[r] = soften(room.scores + r * room.capacity, own->num_past + query / group + 1,
                           num_keys, room.shares + r * room.capacity);
      }
      for (int block = 0; block < size; block += COLUMNS) {
        Vector sums[ROWS][2];
        mix_block(room.shares, room.values + block * room.capacity, num_shown, room.capacity, sums);
        for (int64_t q = first; q < last; q++) {
          const int64_t head_place = (start + q / group) * own->heads + head * group + q % group;
          float* to = own->attended + head_place * size + block;
          store(to, sums[q - first][0] / totals[q - first]);
          store(to + LANES, sums[q - first][1] / totals[q - first]);
        }
      }
    }
  }
  give(spare);
}

/* ---- The operators as the runtime asks for them ---- */
enum { ROW_QUANTIZE, SUM_NORM, SILU_PRODUCT, PACKED_ATTENTION };
typedef struct {
  Api api;
  int kernel;
  float epsilon;
  int64_t rotation;
} Kernel;

static Status parallel_for(Api api, void* context, void (*work)(void*, size_t), size_t total,
                           void* given) {
  return CALL(api, PARALLEL_FOR, Status, void*, void (*)(void*, size_t), size_t, size_t, void*)(
      context, work, total, 0, given);
}

typedef struct {
  const float *values, *other, *weight, *factors;
  float *made, *sum, *scales;
  uint8_t* integers;
  int64_t number, rotation, num_tokens;
  float epsilon;
  int failed;
} Rows;

static void quantize_rows(void* given, size_t index) {
  Rows* own = given;
  const int64_t number = own->number;
  float* rotated = own->rotation > 1 ? malloc(number * sizeof *rotated) : NULL;
  if (own->rotation > 1 && !rotated) {
    own->failed = 1;
    return;
  }
  for (int64_t t = index * PIECE; t < own->num_tokens && t < (int64_t)(index + 1) * PIECE; t++) {
    const float* row = own->values + t * number;
    if (rotated) {
      rotate(row, number, own->rotation, rotated);
      row = rotated;
    }
    quantize_row(row, number, own->scales + t, own->integers + t * number);
  }
  free(rotated);
}

static void sum_norm_rows(void* given, size_t index) {
  Rows* own = given;
  const int64_t number = own->number;
  for (int64_t t = index * PIECE; t < own->num_tokens && t < (int64_t)(index + 1) * PIECE; t++) {
    const float *one = own->values + t * number, *other = own->other + t * number;
    float *sum = own->sum + t * number, *made = own->made + t * number;
    const float factor = own->factors ? own->factors[t] : 1.0f;
    Vector squares = all(0.0f);
    for (int64_t i = 0; i < number; i += LANES) {
      Vector both = load(one + i) + load(other + i) * factor;
      store(sum + i, both);
      squares += both * both;
    }
    const float inverse = 1.0f / sqrtf(sum_of(squares) / number + own->epsilon);
    for (int64_t i = 0; i < number; i += LANES)
      store(made + i, load(sum + i) * inverse * load(own->weight + i));
  }
}

static void gate_rows(void* given, size_t index) {
  Rows* own = given;
  for (int64_t t = index * PIECE; t < own->num_tokens && t < (int64_t)(index + 1) * PIECE; t++) {
    const float factor = own->factors ? own->factors[t] : 1.0f;
    for (int64_t i = t * own->number; i < (t + 1) * own->number; i += LANES) {
      Vector gate = load(own->values + i) * factor, up = load(own->other + i) * factor;
      store(own->made + i, gate / (exponential(-gate) + 1.0f) * up);
    }
  }
}

static Status compute_rows(Kernel* kernel, void* context) {
  Api api = kernel->api;
  Tensor values, other = {0}, weight = {0}, factors = {0};
  size_t given = 0;
  Status status = read_input(api, context, 0, &values);
  if (!status && kernel->kernel != ROW_QUANTIZE) status = read_input(api, context, 1, &other);
  if (!status && kernel->kernel == SUM_NORM) status = read_input(api, context, 2, &weight);
  if (!status) status = CALL(api, NUM_INPUTS, Status, void*, size_t*)(context, &given);
  const size_t last = kernel->kernel == SUM_NORM ? 3 : 2;
  if (!status && kernel->kernel != ROW_QUANTIZE && given > last)
    status = read_input(api, context, last, &factors);
  if (status) return status;
  const int64_t number = values.num_axes ? values.axes[values.num_axes - 1] : 0;
  if (number % LANES || number == 0 || (other.data && other.size != values.size) ||
      (weight.data && weight.size != number) ||
      (factors.data && factors.size != values.size / number) || (kernel->rotation && number % kernel->rotation))
    return fail(api, "values must be [tokens, n] and n a multiple of 16", number);
  Rows rows = {.values = values.data, .other = other.data, .weight = weight.data,
               .factors = factors.data, .number = number, .rotation = kernel->rotation, .epsilon = kernel->epsilon,
               .num_tokens = values.size / number};
  int64_t axes[2] = {rows.num_tokens, 1};
  void (*work)(void*, size_t) = gate_rows;
  if (kernel->kernel == ROW_QUANTIZE) {
    work = quantize_rows;
    status = make_output(api, context, 0, values.axes, values.num_axes, &rows.integers);
    if (!status) status = make_output(api, context, 1, axes, 2, &rows.scales);
  } else {
    status = make_output(api, context, 0, values.axes, values.num_axes, &rows.made);
    if (kernel->kernel == SUM_NORM) work = sum_norm_rows;
    if (!status && kernel->kernel == SUM_NORM)
      status = make_output(api, context, 1, values.axes, values.num_axes, &rows.sum);
  }
  if (!status && rows.num_tokens)
    status = parallel_for(api, context, work, (rows.num_tokens + PIECE - 1) / PIECE, &rows);
  return !status && rows.failed ? fail(api, "no memory", number) : status;
}

static Status compute_attention(Kernel* kernel, void* context) {
  enum {
    QUERY, KEY, VALUE, QUERY_WEIGHT, KEY_WEIGHT, COSINES, SINES, ENDS, PAST_KEY, PAST_VALUE, SCALES
  };
  Api api = kernel->api;
  Tensor given[SCALES + 1] = {0};
  size_t number = 0;
  Status status = CALL(api, NUM_INPUTS, Status, void*, size_t*)(context, &number);
  for (size_t i = 0; !status && i < number && i <= SCALES; i++)
    status = read_input(api, context, i, given + i);
  if (status) return status;
  const int64_t size = given[QUERY_WEIGHT].size, num_tokens = given[QUERY].axes[0];
  const Tensor* past = given + PAST_KEY;
  Attention own = {
      .query = given[QUERY].data, .key = given[KEY].data, .value = given[VALUE].data,
      .query_weight = given[QUERY_WEIGHT].data, .key_weight = given[KEY_WEIGHT].data,
      .cosines = given[COSINES].data, .sines = given[SINES].data, .ends = given[ENDS].data,
      .past_key = past->data, .past_value = given[PAST_VALUE].data,
      .scales = given[SCALES].data, .num_rows = given[ENDS].size,
      .num_past = past->data ? past->axes[2] : 0, .past_rows = past->data ? past->axes[0] : 0,
      .num_tokens = num_tokens, .size = (int)size, .epsilon = kernel->epsilon,
      .heads = size ? (int)(given[QUERY].axes[1] / size) : 0,
      .key_heads = size ? (int)(given[KEY].axes[1] / size) : 0};
  if (size == 0 || size % COLUMNS || given[QUERY].num_axes != 2 ||
      given[KEY].num_axes != 2 || own.key_heads == 0 || given[QUERY].axes[1] % size ||
      given[KEY].axes[1] % size ||
      own.heads % own.key_heads || given[KEY].size != given[VALUE].size ||
      given[KEY].axes[0] != num_tokens || (own.scales && given[SCALES].size != num_tokens))
    return fail(api, "heads must be multiples of 32 values, and whole groups of them", size);
  const Tensor *cosines = given + COSINES, *sines = given + SINES;
  if (given[KEY_WEIGHT].size != size || cosines->num_axes != 2 || cosines->axes[1] != size / 2 ||
      sines->size != cosines->size)
    return fail(api, "norms and rotary tables are of another size than heads", size);
  if (own.num_past && (past->num_axes != 4 || past->axes[1] != own.key_heads ||
                       past->axes[3] != size || past->size != given[PAST_VALUE].size ||
                       (own.past_rows != 1 && own.past_rows != own.num_rows)))
    return fail(api, "a past is [1 or rows, heads, tokens, size]", own.past_rows);
  for (int64_t row = 0, start = 0; row < own.num_rows; start = own.ends[row++]) {
    if (own.ends[row] < start) return fail(api, "ends of rows must not fall", own.ends[row]);
    if (own.ends[row] - start > own.longest) own.longest = own.ends[row] - start;
  }
  if (own.num_rows && own.ends[own.num_rows - 1] != num_tokens)
    return fail(api, "the last row must end with the last token", num_tokens);
  if (own.num_past + own.longest > cosines->axes[0])
    return fail(api, "the rotary tables are shorter than the rows", own.num_past + own.longest);
  /* Keys and values are handed on for a row that stands alone; nobody asks for those of several. */
  const int is_alone = own.num_rows == 1;
  const int64_t axes[4] = {is_alone, own.key_heads, is_alone ? own.num_past + own.longest : 0, size};
  status = make_output(api, context, 0, given[QUERY].axes, 2, &own.attended);
  if (!status) status = make_output(api, context, 1, axes, 4, &own.present_key);
  if (!status) status = make_output(api, context, 2, axes, 4, &own.present_value);
  if (status || !num_tokens) return status;
  const int64_t key_size = round_up(num_tokens * own.key_heads * size, LANES);
  Spare spare = take((num_tokens * own.heads * size + 2 * key_size) * sizeof(Stored));
  if (!spare.memory) return fail(api, "no memory for so many tokens", num_tokens);
  own.keys = spare.memory, own.values = own.keys + key_size, own.queries = own.values + key_size;
  /* A row that stands alone hands its past on, too. */
  if (is_alone && own.num_past) {
    const int64_t seen = own.num_past + own.longest, part = own.num_past * size;
    for (int h = 0; h < own.key_heads; h++) {
      memcpy(own.present_key + h * seen * size, own.past_key + h * part, part * sizeof(float));
      memcpy(own.present_value + h * seen * size, own.past_value + h * part, part * sizeof(float));
    }
  }
  const int64_t num_pieces = (num_tokens + PIECE - 1) / PIECE;
  status = parallel_for(api, context, turn_tokens, num_pieces, &own);
  if (!status) status = parallel_for(api, context, attend_head, own.key_heads, &own);
  give(spare);
  return !status && own.failed ? fail(api, "no memory for a row of tokens", own.longest) : status;
}

static Status compute(void* kernel, void* context) {
  Kernel* own = kernel;
  return own->kernel == PACKED_ATTENTION ? compute_attention(own, context)
                                         : compute_rows(own, context);
}

static Status create(const Operator* own, Api api, const void* info, void** made) {
  Kernel* kernel = malloc(sizeof *kernel);
  if (!kernel) return fail(api, "no memory", 0);
  *kernel = (Kernel){api, own->kernel, 0.0f, 0};
  *made = kernel;
  if (own->kernel == SUM_NORM || own->kernel == PACKED_ATTENTION)
    return CALL(api, FLOAT_ATTRIBUTE, Status, const void*, const char*, float*)(info, "epsilon",
                                                                                &kernel->epsilon);
  if (own->kernel == ROW_QUANTIZE)
    return CALL(api, INTEGER_ATTRIBUTE, Status, const void*, const char*, int64_t*)(
        info, "rotation", &kernel->rotation);
  return NULL;
}

static const char* name_of(const Operator* own) {
  static const char* const names[] = {"RowQuantize", "SumNorm", "SiluProduct", "PackedAttention"};
  return names[own->kernel];
}
static const char* provider_of(const Operator* own) {
  (void)own;
  return "CPUExecutionProvider";
}
static int type_of_input(const Operator* own, size_t index) {
  return own->kernel == PACKED_ATTENTION && index == 7 ? INT64 : FLOAT;
}
static int type_of_output(const Operator* own, size_t index) {
  return own->kernel == ROW_QUANTIZE && index == 0 ? UINT8 : FLOAT;
}
static size_t inputs_of(const Operator* own) {
  static const size_t numbers[] = {1, 4, 3, 11};
  return numbers[own->kernel];
}
static size_t outputs_of(const Operator* own) {
  static const size_t numbers[] = {2, 2, 1, 3};
  return numbers[own->kernel];
}
static int kind_of_input(const Operator* own, size_t index) {
  return own->kernel != ROW_QUANTIZE && index + 1 == inputs_of(own) ? OPTIONAL : REQUIRED;
}
static int kind_of_output(const Operator* own, size_t index) {
  (void)own, (void)index;
  return REQUIRED;
}

#define OPERATOR(KERNEL)                                                                       \
  {API_VERSION, NULL, name_of, provider_of, type_of_input, inputs_of, type_of_output,          \
   outputs_of, NULL, free, kind_of_input, kind_of_output, on_device, one, one, one, one,       \
   create, compute, NULL, one, last_version, {0}, KERNEL, 0}
static const Operator operators[] = {OPERATOR(ROW_QUANTIZE), OPERATOR(SUM_NORM),
                                     OPERATOR(SILU_PRODUCT), OPERATOR(PACKED_ATTENTION)};

__attribute__((visibility("default"))) Status RegisterCustomOps(void* options, const ApiBase* base) {
  return register_operators(options, base, operators, sizeof operators / sizeof *operators);
}
