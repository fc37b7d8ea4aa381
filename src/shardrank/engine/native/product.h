/* HalfProduct: matrix products with weights in bfloat16. */
#include "spare.h"
#include "tile.h"

typedef struct {
  const float* values;
  const uint16_t* weight; /* [num_outputs / 32][num_inputs / 2][32][2] */
  float* made;
  Stored* rows; /* the values, [num_tokens rounded up to 8][num_inputs] */
  int64_t num_tokens, num_inputs, num_outputs;
  int failed;
} Product;

/* Eight rows, rounded as factors are. */
static void round_rows(void* given, size_t index) {
  Product* own = given;
  for (int64_t t = index * ROWS; t < (int64_t)(index + 1) * ROWS; t++)
    for (int64_t i = 0; i < own->num_inputs; i += LANES)
      shorten(own->rows + t * own->num_inputs + i,
              t < own->num_tokens ? load(own->values + t * own->num_inputs + i) : all(0.0f));
}

/* 32 columns of every row. */
static void multiply_columns(void* given, size_t index) {
  Product* own = given;
  const int64_t num_inputs = own->num_inputs;
  const uint16_t* weight = own->weight + index * num_inputs * COLUMNS;
#ifdef __AVX512BF16__
  const Stored* factors = weight;
#else
  Spare spare = take(num_inputs * COLUMNS * sizeof(Stored));
  if (!spare.memory) {
    own->failed = 1;
    return;
  }
  float* factors = spare.memory;
  for (int64_t i = 0; i < num_inputs; i++)
    for (int column = 0; column < COLUMNS; column++) {
      const uint32_t bits = (uint32_t)weight[i / 2 * 2 * COLUMNS + column * 2 + i % 2] << 16;
      memcpy(factors + i * COLUMNS + column, &bits, sizeof bits);
    }
#endif
  for (int64_t first = 0; first < own->num_tokens; first += ROWS) {
    Vector sums[ROWS][2];
    mix_block(own->rows + first * num_inputs, factors, num_inputs, num_inputs, sums);
    for (int64_t t = first; t < first + ROWS && t < own->num_tokens; t++) {
      float* to = own->made + t * own->num_outputs + index * COLUMNS;
      store(to, sums[t - first][0]);
      store(to + LANES, sums[t - first][1]);
    }
  }
#ifndef __AVX512BF16__
  give(spare);
#endif
}
