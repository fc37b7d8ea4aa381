/* What works token by token: RowQuantize, SumNorm, SumNormQuantize and SiluProduct. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "vectors.h"

/* Tokens that one task works on. */
enum { PIECE = 16 };

/* RowQuantize: uint8 with zero at 128, one scale a token; blocks of `rotation` channels are
 * multiplied by Sylvester's matrix before (graph/rotation.py, graph/quantize.py). */
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

static inline Integers larger_bits(Integers a, Integers b) {
  Integers is = a > b;
  return (is & a) | (~is & b);
}

static void quantize_row(const float* values, int64_t number, float* scale, uint8_t* integers) {
  /* Without their signs numbers are in the order of their bits, and what is none comes after them. */
  Integers most = {0}, others = {0};
  int64_t i = 0;
  for (; i + 2 * LANES <= number; i += 2 * LANES) {
    most = larger_bits(most, (Integers)load(values + i) & 0x7fffffff);
    others = larger_bits(others, (Integers)load(values + i + LANES) & 0x7fffffff);
  }
  for (; i < number; i += LANES) most = larger_bits(most, (Integers)load(values + i) & 0x7fffffff);
  most = larger_bits(most, others);
  int largest = 0;
  for (int lane = 0; lane < LANES; lane++) largest = most[lane] > largest ? most[lane] : largest;
  float value;
  memcpy(&value, &largest, sizeof value);
  /* What is not a number, or infinite, makes the whole token so. */
  *scale = value / 127.0f;
  *scale = (*scale < 1e-30f ? 1e-30f : *scale) + value * 0.0f;
  const float per = 1.0f / *scale;
  for (i = 0; i < number; i += LANES) {
    /* 1.5 x 2^23 rounds half to even, and leaves the integer, 128 added, in the last bits. */
    Integers rounded = (Integers)(load(values + i) * per + 12583040.0f);
    Bytes few = __builtin_convertvector(rounded & 255, Bytes);
    memcpy(integers + i, &few, sizeof few);
  }
}

typedef struct {
  const float *values, *other, *weight;
  float *made, *sum, *scales;
  uint8_t* integers; /* of a norm: NULL where it is wanted as it is */
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

/* The sum of a token's values and its residual, normed. */
static void sum_norm(const Rows* own, int64_t token, float* made) {
  const int64_t number = own->number;
  const float *one = own->values + token * number, *other = own->other + token * number;
  float* sum = own->sum + token * number;
  Vector squares = all(0.0f);
  for (int64_t i = 0; i < number; i += LANES) {
    Vector both = load(one + i) + load(other + i);
    store(sum + i, both);
    squares += both * both;
  }
  const float inverse = 1.0f / sqrtf(sum_of(squares) / number + own->epsilon);
  for (int64_t i = 0; i < number; i += LANES)
    store(made + i, load(sum + i) * inverse * load(own->weight + i));
}

static void sum_norm_rows(void* given, size_t index) {
  Rows* own = given;
  const int64_t number = own->number;
  float* normed = own->integers ? malloc(number * sizeof *normed) : NULL;
  if (own->integers && !normed) {
    own->failed = 1;
    return;
  }
  for (int64_t t = index * PIECE; t < own->num_tokens && t < (int64_t)(index + 1) * PIECE; t++) {
    sum_norm(own, t, normed ? normed : own->made + t * number);
    if (normed) quantize_row(normed, number, own->scales + t, own->integers + t * number);
  }
  free(normed);
}

static void gate_rows(void* given, size_t index) {
  Rows* own = given;
  for (int64_t t = index * PIECE; t < own->num_tokens && t < (int64_t)(index + 1) * PIECE; t++) {
    for (int64_t i = t * own->number; i < (t + 1) * own->number; i += LANES)
      store(own->made + i, silu(load(own->values + i)) * load(own->other + i));
  }
}
