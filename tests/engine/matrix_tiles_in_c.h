/* The instructions of matrix_tiles.h in plain C, for processors without them: given to the compiler
 * with -include, and with -D__AMX_INT8__. */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static _Thread_local struct {
  unsigned char bytes[8][16][64], rows[8], widths[8];
} tiles;

static void load_shape(const unsigned char* shape) {
  for (int tile = 0; tile < 8; tile++) tiles.widths[tile] = shape[16 + 2 * tile], tiles.rows[tile] = shape[48 + tile];
}
static void multiply(int to, int unsigned_bytes, int signed_bytes) {
  for (int row = 0; row < tiles.rows[to]; row++)
    for (int column = 0; column < tiles.widths[to] / 4; column++)
      for (int i = 0; i < tiles.widths[unsigned_bytes]; i++) {
        int sum;
        memcpy(&sum, &tiles.bytes[to][row][4 * column], 4);
        sum += tiles.bytes[unsigned_bytes][row][i] *
               (signed char)tiles.bytes[signed_bytes][i / 4][4 * column + i % 4];
        memcpy(&tiles.bytes[to][row][4 * column], &sum, 4);
      }
}

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbusd
#define _tile_loadconfig(shape) load_shape((const void*)(shape))
#define _tile_release() memset(&tiles, 0, sizeof tiles)
#define _tile_zero(tile) memset(tiles.bytes[tile], 0, sizeof tiles.bytes[tile])
#define _tile_loadd(tile, from, stride)            \
  for (int row = 0; row < tiles.rows[tile]; row++) \
  memcpy(tiles.bytes[tile][row], (const char*)(from) + row * (stride), tiles.widths[tile])
#define _tile_stored(tile, to, stride)             \
  for (int row = 0; row < tiles.rows[tile]; row++) \
  memcpy((char*)(to) + row * (stride), tiles.bytes[tile][row], tiles.widths[tile])
#define _tile_dpbusd multiply
#define syscall(...) 0L
