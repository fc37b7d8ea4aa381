/* Tiles of a matrix product: factors in bfloat16 where the processor multiplies that, sums in float32. */
#pragma once
#include <stdint.h>
#include <string.h>

#include "vectors.h"
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

/* Rows and columns that are worked on at once. */
enum { ROWS = 8, COLUMNS = 2 * LANES };

#ifdef __AVX512BF16__
typedef uint16_t Stored; /* bfloat16 */
enum { TOGETHER = 2 };   /* factors that one instruction multiplies and adds to one sum */
typedef uint16_t Halves __attribute__((vector_size(32), aligned(2)));
typedef __m512i Factors; /* as many as are stored in a vector's place */
static inline Factors load_factors(const Stored* from) { return _mm512_loadu_si512(from); }
static inline Factors repeat(const Stored* pair) {
  int both;
  memcpy(&both, pair, sizeof both);
  return _mm512_set1_epi32(both);
}
static inline Vector multiply_add(Factors ones, Factors others, Vector sum) {
  return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)ones, (__m512bh)others);
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
typedef Vector Factors;
static inline Factors load_factors(const Stored* from) { return load(from); }
static inline Factors repeat(const Stored* one) { return all(*one); }
static inline Vector multiply_add(Factors ones, Factors others, Vector sum) {
  return sum + ones * others;
}
static inline void shorten(Stored* to, Vector values) { store(to, values); }
static inline void interleave(const Stored* one, const Stored* other, Stored* to) {
  (void)other;
  store(to, load(one));
}
#endif

/* Of its own, so that all registers are: inlined, its factors went through memory. */
#define APART __attribute__((noinline))

/* sums[r] = shares[r] . values over the first num_keys keys, for 8 rows and 32 columns; values as
 * [num_keys / TOGETHER][32][TOGETHER]. */
static APART void mix_block(const Stored* shares, const Stored* values, int64_t num_keys, int64_t stride,
                      Vector sums[ROWS][2]) {
  Vector kept[ROWS][2];
  for (int r = 0; r < ROWS; r++) kept[r][0] = kept[r][1] = all(0.0f);
  for (int64_t k = 0; k < num_keys; k += TOGETHER) {
    const Factors left = load_factors(values + k * COLUMNS);
    const Factors right = load_factors(values + k * COLUMNS + LANES * TOGETHER);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) {
      const Factors share = repeat(shares + r * stride + k);
      kept[r][0] = multiply_add(left, share, kept[r][0]);
      kept[r][1] = multiply_add(right, share, kept[r][1]);
    }
  }
  memcpy(sums, kept, sizeof kept);
}
