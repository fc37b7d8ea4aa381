/* IntegerProduct: matrix products of 8-bit integers, with their scales and gates. */
#include <stdint.h>
#include <string.h>

#include "matrix_tiles.h"
#include "tile.h"
#ifdef __AVX2__
#include <immintrin.h>
#endif

typedef Integers LooseIntegers __attribute__((aligned(4)));

/* Weights come from memory, a panel at a time, and are asked for while the panel before is multiplied:
 * a bit at each step, as more at once would keep the tokens waiting. Where there is one block of tokens
 * only, nothing lasts as long as the reading, and what comes next is asked for: this many bytes ahead.
 * From the second cache to the first they are asked for some steps before: tokens took their place. */
enum { BYTES_AHEAD = 4096, BYTES_NEXT = 1024 };
typedef struct {
  const int8_t* from;
  int64_t step; /* bytes for every four inputs */
} Ahead;

/* sum[c] + four unsigned bytes times the four signed ones of column c; exact. */
static inline Integers add_four(Integers sum, int four, const int8_t* weight) {
#ifdef __AVX512VNNI__
  return (Integers)_mm512_dpbusd_epi32((__m512i)sum, _mm512_set1_epi32(four),
                                       _mm512_loadu_si512(weight));
#elif defined __AVX512BW__
  /* As 16 bits, the even ones and the odd ones: what multiplies bytes here saturates. */
  const __m512i bytes = _mm512_loadu_si512(weight);
  const __m512i even = _mm512_srai_epi16(_mm512_slli_epi16(bytes, 8), 8);
  const __m512i odd = _mm512_srai_epi16(bytes, 8);
  const __m512i first = _mm512_set1_epi32(four & 0x00ff00ff);
  const __m512i second = _mm512_set1_epi32(four >> 8 & 0x00ff00ff);
  return sum + (Integers)_mm512_madd_epi16(even, first) + (Integers)_mm512_madd_epi16(odd, second);
#elif defined __AVX2__
  __m256i halves[2];
  memcpy(halves, &sum, sizeof sum);
  for (int h = 0; h < 2; h++) {
    const __m256i bytes = _mm256_loadu_si256((const __m256i*)weight + h);
#ifdef __AVXVNNI__
    halves[h] = _mm256_dpbusd_avx_epi32(halves[h], _mm256_set1_epi32(four), bytes);
#else
    const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8);
    const __m256i odd = _mm256_srai_epi16(bytes, 8);
    const __m256i first = _mm256_set1_epi32(four & 0x00ff00ff);
    const __m256i second = _mm256_set1_epi32(four >> 8 & 0x00ff00ff);
    const __m256i both = _mm256_add_epi32(_mm256_madd_epi16(even, first), _mm256_madd_epi16(odd, second));
    halves[h] = _mm256_add_epi32(halves[h], both);
#endif
  }
  memcpy(&sum, halves, sizeof sum);
  return sum;
#else
  const Integers bytes = *(const LooseIntegers*)weight;
  for (int b = 0; b < 4; b++) sum += ((bytes << (24 - 8 * b)) >> 24) * (four >> 8 * b & 255);
  return sum;
#endif
}

/* sums[r] = tokens[r] . weight for 32 columns; weight as [num_inputs / 4][32][4].
 * num_rows is a constant wherever this is called. */
static UNROLLED void sum_rows(const uint8_t* tokens, const int8_t* weight, int64_t num_inputs,
                              Ahead ahead, const int num_rows, Integers sums[][2]) {
  Integers kept[TALL][2];
#pragma GCC unroll 16
  for (int r = 0; r < num_rows; r++) kept[r][0] = kept[r][1] = (Integers){0};
  for (int64_t i = 0; i < num_inputs; i += 4, weight += 4 * COLUMNS) {
    __builtin_prefetch(weight + BYTES_NEXT);
    __builtin_prefetch(weight + BYTES_NEXT + 64);
    __builtin_prefetch(ahead.from, 0, 2);
    __builtin_prefetch(ahead.from + ahead.step / 2, 0, 2);
    ahead.from += ahead.step;
#pragma GCC unroll 16
    for (int r = 0; r < num_rows; r++) {
      int four;
      memcpy(&four, tokens + r * num_inputs + i, sizeof four);
      kept[r][0] = add_four(kept[r][0], four, weight);
      kept[r][1] = add_four(kept[r][1], four, weight + 4 * LANES);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < num_rows; r++) sums[r][0] = kept[r][0], sums[r][1] = kept[r][1];
}

static APART void sum_few(const uint8_t* tokens, const int8_t* weight, int64_t num_inputs,
                          Ahead ahead, int num_rows, Integers sums[][2]) {
#define SUM(n)                                            \
  case n:                                                 \
    sum_rows(tokens, weight, num_inputs, ahead, n, sums); \
    break;
  FOR_ROWS(num_rows, SUM)
#undef SUM
}

typedef struct {
  const uint8_t* integers;
  const int8_t* weight; /* [num_panels][num_inputs / 4][32][4] */
  const float *scales, *weight_scales;
  const int32_t* offsets;
  float* made;
  int64_t num_tokens, num_inputs, num_panels, num_groups;
  int is_gated, is_tiled;
} IntegerProduct;

/* Sums to products; where gated, the second half of a panel times SiLU of the first. */
static void finish(const IntegerProduct* own, int64_t panel, int64_t token, int num_rows,
                   Integers sums[][2]) {
  const int64_t column = panel * COLUMNS, num_outputs = own->num_panels * COLUMNS;
  for (int r = 0; r < num_rows; r++, token++) {
    Vector halves[2];
    for (int h = 0; h < 2; h++) {
      Integers offset = *(const LooseIntegers*)(own->offsets + column + h * LANES);
      halves[h] = __builtin_convertvector(sums[r][h] - offset, Vector) *
                  (load(own->weight_scales + column + h * LANES) * own->scales[token]);
    }
    if (own->is_gated) {
      store(own->made + (token * num_outputs + column) / 2, silu(halves[0]) * halves[1]);
    } else {
      store(own->made + token * num_outputs + column, halves[0]);
      store(own->made + token * num_outputs + column + LANES, halves[1]);
    }
  }
}

/* What one of some blocks of tokens is to ask for. */
static inline Ahead ahead_of(const int8_t* weight, int64_t num_inputs, int64_t block, int64_t num_blocks) {
  if (num_blocks == 1) return (Ahead){weight + BYTES_AHEAD, 4 * COLUMNS};
  const int64_t step = (4 * COLUMNS + num_blocks - 1) / num_blocks;
  return (Ahead){weight + num_inputs * COLUMNS + block * step * num_inputs / 4, step};
}

/* One panel of columns for one group of tokens. */
static void multiply_panel(void* given, size_t index) {
  const IntegerProduct* own = given;
  const int64_t group = index / own->num_panels, panel = index % own->num_panels;
  const int64_t num_inputs = own->num_inputs;
  const int64_t first = start_of(group, own->num_groups, own->num_tokens);
  const int64_t num_tokens = start_of(group + 1, own->num_groups, own->num_tokens) - first;
  const int8_t* weight = own->weight + panel * num_inputs * COLUMNS;
  const int is_tiled = own->is_tiled && num_tokens >= TILED_ROWS;
  const int64_t tall = is_tiled ? TILED_ROWS : TALL, num_blocks = (num_tokens + tall - 1) / tall;
  Integers sums[TILED_ROWS][2];
  if (is_tiled) begin_tiles();
  for (int64_t block = 0; block < num_blocks; block++) {
    int64_t token = first + start_of(block, num_blocks, num_tokens);
    int num_rows = (int)(first + start_of(block + 1, num_blocks, num_tokens) - token);
    if (is_tiled) {
      /* Whole tiles: some tokens may be computed twice, and get the same bits. */
      num_rows = TILED_ROWS;
      if (token + num_rows > first + num_tokens) token = first + num_tokens - num_rows;
      sum_tiles(own->integers + token * num_inputs, weight, num_inputs, sums);
    } else {
      const Ahead ahead = ahead_of(weight, num_inputs, block, num_blocks);
      sum_few(own->integers + token * num_inputs, weight, num_inputs, ahead, num_rows, sums);
    }
    finish(own, panel, token, num_rows, sums);
  }
  if (is_tiled) end_tiles();
}
