# The answer to a WebSocket's key: SHA-1 of the key and a fixed text, in base64 (RFC 6455, section 4.2.2).
#
# Called once for each handshake that the engine answers. SHA-1 is written out here, since setting up the digest of a
# library costs more than these two blocks; the RFC prescribes it, and nothing depends on its strength. The input always
# has 60 bytes, so the second block is always the same. Nothing here allocates or fails.

from libc.stdint cimport uint8_t

cdef enum:
    KEY_SIZE = 24               # bytes of a key: 16 bytes in base64
    ACCEPT_SIZE = 28            # bytes of the answer: 20 bytes in base64

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    static uint32_t rh_rotated(uint32_t x, int n) { return x << n | x >> (32 - n); }
    /* FIPS 180-4, section 6.1.2. */
    static void rh_sha1_block(uint32_t h[5], const uint8_t *block) {
        uint32_t w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
        for (int i = 0; i < 16; i++)
            w[i] = (uint32_t) block[4 * i] << 24 | (uint32_t) block[4 * i + 1] << 16
                   | (uint32_t) block[4 * i + 2] << 8 | block[4 * i + 3];
        for (int i = 16; i < 80; i++) w[i] = rh_rotated(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
        for (int i = 0; i < 80; i++) {
            uint32_t f = i < 20 ? (d ^ (b & (c ^ d))) + 0x5A827999u
                       : i < 40 ? (b ^ c ^ d) + 0x6ED9EBA1u
                       : i < 60 ? ((b & c) | (d & (b | c))) + 0x8F1BBCDCu
                                : (b ^ c ^ d) + 0xCA62C1D6u;
            uint32_t next = rh_rotated(a, 5) + f + e + w[i];
            e = d; d = c; c = rh_rotated(b, 30); b = a; a = next;
        }
        h[0] += a; h[1] += b; h[2] += c; h[3] += d; h[4] += e;
    }
    static void rh_accept_key(char *out, const uint8_t *key) {
        static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";    /* RFC 6455, section 1.3 */
        static const uint8_t last[64] = {[62] = 0x01, [63] = 0xE0};   /* the length: 480 bits */
        uint32_t h[5] = {0x67452301u, 0xEFCDAB89u, 0x98BADCFEu, 0x10325476u, 0xC3D2E1F0u};
        uint8_t block[64], digest[21];
        memcpy(block, key, 24);
        memcpy(block + 24, guid, 36);
        memset(block + 60, 0, 4);
        block[60] = 0x80;
        rh_sha1_block(h, block);
        rh_sha1_block(h, last);
        for (int i = 0; i < 20; i++) digest[i] = (uint8_t) (h[i / 4] >> (24 - 8 * (i % 4)));
        digest[20] = 0;
        for (int i = 0; i < 7; i++) {
            uint32_t three = (uint32_t) digest[3 * i] << 16 | (uint32_t) digest[3 * i + 1] << 8 | digest[3 * i + 2];
            for (int j = 0; j < 4; j++) *out++ = letters[three >> (18 - 6 * j) & 63];
        }
        out[-1] = '=';
    }
    """
    # Writes ACCEPT_SIZE bytes for the KEY_SIZE bytes at `key`.
    void rh_accept_key(char* out, const uint8_t* key) noexcept nogil
