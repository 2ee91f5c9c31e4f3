// Skinny products on one thread; equations in simd.hpp. Included inside a set's own namespace, after lanes.inc.hpp.
//
// All are register blocks of kMostRows × kVectors accumulators. `accumulate` and `outer` share one: a column group of
// kVectors vectors, to which each row k of the right operand adds broadcast(left_k) times itself. A group's p ×
// kVectors vectors of W stay in the first cache while the row blocks pass. `dots` keeps sums along the rows of W and X.
//
// cost  2·m·p·n flops; per multiply–add vector about 1 / kVectors + 1 / rows loads.

constexpr int kVectors = 2;
constexpr int kMostRows = FLATCORE_MOST_ROWS;
constexpr Index kDepth = 32;    // rows of W that a column group stays for
constexpr Index kAhead = 4;     // column groups prefetched ahead
constexpr Index kDotRows = 64;  // rows of W that a chunk of X stays for
constexpr Index kDotAhead = 4;  // rows of W prefetched ahead

constexpr Index kFirstCache = 32 * 1024;

enum class Write { add, overwrite, stream };

// C (R × kVectors vectors) = [C +] Σ_k left(k, ·) right(k, ·); `ahead`: entries from a right row to what is prefetched.
template <class T, int R, Write W>
void register_block(Index p, const T* left, Index ldl, const T* right, Index ldr, T* c, Index ldc, Index ahead) {
    using Vector = typename Lanes<T>::Vector;
    constexpr int L = Lanes<T>::count;
    Vector acc[R][kVectors];
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) acc[i][v] = W == Write::add ? load(c + i * ldc + v * L) : Vector{};
    for (Index k = 0; k < p; ++k) {
        Vector w[kVectors];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
            w[v] = load(right + v * L);
            if (ahead) __builtin_prefetch(right + ahead + v * L);
        }
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) {
            const T x = left[i];
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; ++v) acc[i][v] += x * w[v];
        }
        left += ldl;
        right += ldr;
    }
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
            if (W == Write::stream)
                store_past_caches(c + i * ldc + v * L, acc[i][v]);
            else
                store(c + i * ldc + v * L, acc[i][v]);
        }
}

template <class T>
using RegisterBlock = void (*)(Index, const T*, Index, const T*, Index, T*, Index, Index);

template <class T, Write W>
RegisterBlock<T> register_block_of(Index rows) {
    static constexpr RegisterBlock<T> blocks[] = {
        register_block<T, 1, W>,  register_block<T, 2, W>,  register_block<T, 3, W>,
        register_block<T, 4, W>,  register_block<T, 5, W>,  register_block<T, 6, W>,
#if FLATCORE_MOST_ROWS > 6
        register_block<T, 7, W>,  register_block<T, 8, W>,  register_block<T, 9, W>,
        register_block<T, 10, W>, register_block<T, 11, W>, register_block<T, 12, W>,
#endif
    };
    return blocks[rows - 1];
}

// m rows in nearly equal blocks of at most kMostRows: block i covers [first(i), first(i + 1)).
struct RowBlocks {
    Index m, count;
    explicit RowBlocks(Index rows) : m(rows), count((rows + kMostRows - 1) / kMostRows) {}
    Index first(Index i) const { return m * i / count; }
    Index rows(Index i) const { return first(i + 1) - first(i); }
};

// `n` <= columns stored entries of each of `rows` rows, as T, the rest of the columns zero.
template <class T, class S>
void widen(Index rows, Index n, Index columns, const S* w, Index ldw, T* out, Index ahead) {
    constexpr Index L = Lanes<T>::count;
    for (Index k = 0; k < rows; ++k, w += ldw, out += columns) {
        if (ahead)
            for (Index byte = 0; byte < columns * Index(sizeof(S)); byte += 64)
                __builtin_prefetch(reinterpret_cast<const char*>(w + ahead) + byte);
        Index j = 0;
        for (; j + L <= n; j += L) store(out + j, Read<T>::from(w + j));
        if (j < columns) {
            S rest[L] = {};
            for (Index e = j; e < n; ++e) rest[e - j] = w[e];
            store(out + j, Read<T>::from(rest));
            for (j += L; j < columns; j += L) store(out + j, typename Lanes<T>::Vector{});
        }
    }
}

template <class A, class B>
struct Same {
    static constexpr bool value = false;
};
template <class A>
struct Same<A, A> {
    static constexpr bool value = true;
};

// Entries from the column group at j to the one to prefetch: further along the same rows, or at the start of the next
// ones, of which `left` − depth remain.
inline Index group_ahead(Index group, Index j, Index n, Index depth, Index left, Index ldw) {
    if (j + (kAhead + 1) * group <= n) return kAhead * group;
    const Index next = j + kAhead * group - n / group * group;
    return left > depth + depth && next >= 0 && next + group <= n ? depth * ldw + next - j : 0;
}

// One row block reads W where it lies; several share a copy in the first cache, which is also where W is widened.
template <class T, class S>
void accumulate_as(Index m, Index p, Index n, const T* xt, Index ldx, const S* w, Index ldw, T* c, Index ldc) {
    constexpr Index group = kVectors * Lanes<T>::count;
    const RowBlocks blocks(m);
    alignas(64) T panel[kDepth * group], sums[kMostRows * group];
    for (Index k = 0; k < p; k += kDepth) {
        const Index depth = p - k < kDepth ? p - k : kDepth;
        const T* left = xt + k * ldx;
        for (Index j = 0; j < n; j += group) {
            const S* from = w + k * ldw + j;
            const Index columns = n - j < group ? n - j : group;
            const Index ahead = group_ahead(group, j, n, depth, p - k, ldw);
            if constexpr (Same<T, S>::value) {
                if (blocks.count == 1 && columns == group) {
                    register_block_of<T, Write::add>(m)(depth, left, ldx, from, ldw, c + j, ldc, ahead);
                    continue;
                }
            }
            widen<T>(depth, columns, group, from, ldw, panel, ahead);
            for (Index b = 0; b < blocks.count; ++b) {
                const Index first = blocks.first(b), rows = blocks.rows(b);
                T* target = c + first * ldc + j;
                if (columns == group) {
                    register_block_of<T, Write::add>(rows)(depth, left + first, ldx, panel, group, target, ldc, 0);
                    continue;
                }
                register_block_of<T, Write::overwrite>(rows)(depth, left + first, ldx, panel, group, sums, group, 0);
                for (Index i = 0; i < rows; ++i)
                    for (Index e = 0; e < columns; ++e) target[i * ldc + e] += sums[i * group + e];
            }
        }
    }
}

template <class T>
void accumulate(Scalar stored, Index m, Index p, Index n, const T* xt, Index ldx, const void* w, Index ldw, T* c,
                Index ldc) {
    switch (stored) {
        case Scalar::f32:
            return accumulate_as(m, p, n, xt, ldx, static_cast<const float*>(w), ldw, c, ldc);
        case Scalar::f64:
            if constexpr (sizeof(T) == 8) accumulate_as(m, p, n, xt, ldx, static_cast<const double*>(w), ldw, c, ldc);
            return;
        case Scalar::f16:
            return accumulate_as(m, p, n, xt, ldx, static_cast<const F16*>(w), ldw, c, ldc);
        case Scalar::bf16:
            return accumulate_as(m, p, n, xt, ldx, static_cast<const BF16*>(w), ldw, c, ldc);
    }
}

template <class T, Write W>
void outer_as(Index m, Index p, Index n, const T* l, Index ldl, const T* r, Index ldr, T* c, Index ldc) {
    constexpr Index group = kVectors * Lanes<T>::count;
    const RowBlocks blocks(m);
    for (Index b = 0; b < blocks.count; ++b) {
        const Index first = blocks.first(b);
        const auto block = register_block_of<T, W>(blocks.rows(b));
        Index j = 0;
        for (; j + group <= n; j += group) block(p, l + first, ldl, r + j, ldr, c + first * ldc + j, ldc, 0);
        for (; j < n; ++j)
            for (Index i = first; i < first + blocks.rows(b); ++i) {
                T sum = W == Write::add ? c[i * ldc + j] : T(0);
                for (Index k = 0; k < p; ++k) sum += l[k * ldl + i] * r[k * ldr + j];
                c[i * ldc + j] = sum;
            }
    }
}

template <class T>
void outer(Index m, Index p, Index n, const T* l, Index ldl, const T* r, Index ldr, T* c, Index ldc, bool add,
           bool stream) {
    const bool aligned = reinterpret_cast<std::uintptr_t>(c) % FLATCORE_VECTOR_BYTES == 0 && ldc % Lanes<T>::count == 0;
    if (add) return outer_as<T, Write::add>(m, p, n, l, ldl, r, ldr, c, ldc);
    if (!stream || !aligned) return outer_as<T, Write::overwrite>(m, p, n, l, ldl, r, ldr, c, ldc);
    outer_as<T, Write::stream>(m, p, n, l, ldl, r, ldr, c, ldc);
    finish_stores();
}

// C (R × 2) += R rows of X times two rows of W over n entries, a multiple of the lanes; `ahead`: entries from a row of
// W to what is prefetched.
template <class T, int R>
void dot_block(Index n, const T* x, Index ldx, const T* w, Index ldw, T* c, Index ldc, Index ahead) {
    using Vector = typename Lanes<T>::Vector;
    constexpr int L = Lanes<T>::count, sums = (2 * R + 3) / 4 * 4;
    Vector acc[sums] = {};
    for (Index j = 0; j < n; j += L) {
        const Vector first = load(w + j), second = load(w + ldw + j);
        if (ahead) {
            __builtin_prefetch(w + ahead + j);
            __builtin_prefetch(w + ahead + ldw + j);
        }
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) {
            Vector left = load(x + i * ldx + j);
            FLATCORE_IN_REGISTER(left);
            acc[2 * i] += left * first;
            acc[2 * i + 1] += left * second;
        }
    }
    T out[sums];
#pragma GCC unroll 16
    for (int s = 0; s < sums; s += 4) lane_sums(acc[s], acc[s + 1], acc[s + 2], acc[s + 3], out + s);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
        c[i * ldc] += out[2 * i];
        c[i * ldc + 1] += out[2 * i + 1];
    }
}

template <class T>
using DotBlock = void (*)(Index, const T*, Index, const T*, Index, T*, Index, Index);

template <class T>
DotBlock<T> dot_block_of(Index rows) {
    static constexpr DotBlock<T> blocks[] = {
        dot_block<T, 1>, dot_block<T, 2>, dot_block<T, 3>, dot_block<T, 4>,  dot_block<T, 5>,  dot_block<T, 6>,
#if FLATCORE_MOST_ROWS > 6
        dot_block<T, 7>, dot_block<T, 8>, dot_block<T, 9>, dot_block<T, 10>, dot_block<T, 11>, dot_block<T, 12>,
#endif
    };
    return blocks[rows - 1];
}

// C (m × rows) += a row block of one chunk of X times one or two rows of W, read where they lie if they are two of
// whole vectors of type T, else through a widened, padded copy.
template <class T, class S>
void dot_rows(Index m, Index rows, Index width, const T* x, const S* w, Index ldw, T* c, Index ldc, Index ahead) {
    constexpr Index L = Lanes<T>::count;
    const Index whole = (width + L - 1) / L * L;
    if constexpr (Same<T, S>::value) {
        if (rows == 2 && whole == width) return dot_block_of<T>(m)(whole, x, kDotChunk<T>, w, ldw, c, ldc, ahead);
    }
    alignas(64) T pair[2 * kDotChunk<T>], sums[2 * kMostRows] = {};
    widen<T>(rows, width, whole, w, ldw, pair, ahead);
    if (rows == 2) return dot_block_of<T>(m)(whole, x, kDotChunk<T>, pair, whole, c, ldc, 0);
    for (Index e = whole; e < 2 * whole; ++e) pair[e] = T(0);
    dot_block_of<T>(m)(whole, x, kDotChunk<T>, pair, whole, sums, 2, 0);
    for (Index i = 0; i < m; ++i) c[i * ldc] += sums[2 * i];
}

// Entries from a pair of rows in the chunk at j to the pair to prefetch: further down, or at the top of the next chunk,
// or of the next rows.
template <class T>
Index row_ahead(Index r, Index row, Index last, Index p, Index j, Index n, Index ldw) {
    const Index next = row + kDotAhead;
    if (next + 2 <= last) return kDotAhead * ldw;
    const Index wrapped = r + next - last;
    if (j + 2 * kDotChunk<T> <= n && wrapped >= r && wrapped + 2 <= last) return (wrapped - row) * ldw + kDotChunk<T>;
    return next + 2 <= p && j + kDotChunk<T> >= n ? (next - row) * ldw - j : 0;
}

// A row block of a chunk of X stays in the first cache while kDotRows rows of W pass, which stay in the second. Where
// all of X fits the first cache, two rows of W pass at a time, whole.
template <class T, class S>
void dots_as(Index m, Index p, Index n, const T* x, const S* w, Index ldw, T* c, Index ldc) {
    const RowBlocks blocks(m);
    const Index together = m * n * Index(sizeof(T)) <= kFirstCache ? 2 : kDotRows;
    for (Index r = 0; r < p; r += together) {
        const Index last = p - r < together ? p : r + together;
        for (Index j = 0; j < n; j += kDotChunk<T>) {
            const Index width = n - j < kDotChunk<T> ? n - j : kDotChunk<T>;
            for (Index b = 0; b < blocks.count; ++b) {
                const T* left = x + (j / kDotChunk<T>)*m * kDotChunk<T> + blocks.first(b) * kDotChunk<T>;
                for (Index row = r; row < last; row += 2) {
                    const Index ahead = b == 0 ? row_ahead<T>(r, row, last, p, j, n, ldw) : 0;
                    dot_rows(blocks.rows(b), last - row < 2 ? Index(1) : Index(2), width, left, w + row * ldw + j, ldw,
                             c + blocks.first(b) * ldc + row, ldc, ahead);
                }
            }
        }
    }
}

template <class T>
void dots(Scalar stored, Index m, Index p, Index n, const T* x, const void* w, Index ldw, T* c, Index ldc) {
    switch (stored) {
        case Scalar::f32:
            return dots_as(m, p, n, x, static_cast<const float*>(w), ldw, c, ldc);
        case Scalar::f64:
            if constexpr (sizeof(T) == 8) dots_as(m, p, n, x, static_cast<const double*>(w), ldw, c, ldc);
            return;
        case Scalar::f16:
            return dots_as(m, p, n, x, static_cast<const F16*>(w), ldw, c, ldc);
        case Scalar::bf16:
            return dots_as(m, p, n, x, static_cast<const BF16*>(w), ldw, c, ldc);
    }
}

// x − x is 0 only for finite x.
template <class T>
T largest(Index n, const T* x) {
    using Vector = typename Lanes<T>::Vector;
    constexpr int L = Lanes<T>::count;
    Vector most[kVectors] = {}, spoiled = {};
    Index j = 0;
    for (; j + kVectors * L <= n; j += kVectors * L)
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
            const Vector a = load(x + j + v * L), size = a < 0 ? -a : a;
            most[v] = most[v] < size ? size : most[v];
            spoiled += a - a;
        }
    T out = 0, rest = 0;
    for (int lane = 0; lane < L; ++lane) {
        for (int v = 0; v < kVectors; ++v) out = most[v][lane] > out ? most[v][lane] : out;
        rest += spoiled[lane];
    }
    for (; j < n; ++j) {
        const T size = x[j] < 0 ? -x[j] : x[j];
        out = size > out ? size : out;
        rest += x[j] - x[j];
    }
    return out + rest;
}

template <class T>
constexpr SkinnyKernels<T> skinny_kernels() {
    return {accumulate<T>, outer<T>, dots<T>, largest<T>};
}
