// Skinny products on one thread; equations in simd.hpp. Included inside a set's own namespace, after lanes.inc.hpp.
//
// All are register blocks of kMostRows × kVectors accumulators. `accumulate` and `outer` share one: a column group of
// kVectors vectors, to which each row k of the right operand adds broadcast(left_k) times itself. A group's p ×
// kVectors vectors of W stay in the first cache while the row blocks pass. `dots` keeps sums along the rows of W and X.
//
// cost  2·m·p·n flops; per multiply–add vector about 1 / kVectors + 1 / rows loads.

constexpr int kVectors = 2;
constexpr int kMostRows = FLATCORE_MOST_ROWS;
constexpr Index kDepth = 64;    // rows of W that a column group stays for
constexpr Index kAhead = 2;     // column groups prefetched ahead
constexpr Index kDotRows = 64;  // rows of W that a chunk of X stays for
constexpr Index kDotAhead = 2;  // rows of W prefetched ahead

enum class Write { add, overwrite, stream };

// C (R × kVectors vectors) = [C +] Σ_k left(k, ·) right(k, ·); `ahead`: entries from a right row to what is prefetched,
// 0 none.
template <class T, class S, int R, Write W>
void register_block(Index p, const T* left, Index ldl, const S* right, Index ldr, T* c, Index ldc, Index ahead) {
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
        for (int v = 0; v < kVectors; ++v) w[v] = Read<T>::from(right + v * L);
        if (ahead) {
#pragma GCC unroll 4
            for (unsigned line = 0; line < kVectors * L * sizeof(S); line += 64)
                __builtin_prefetch(reinterpret_cast<const char*>(right + ahead) + line);
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

template <class T, class S, Write W>
using RegisterBlock = void (*)(Index, const T*, Index, const S*, Index, T*, Index, Index);

template <class T, class S, Write W>
RegisterBlock<T, S, W> register_block_of(Index rows) {
    static constexpr RegisterBlock<T, S, W> blocks[] = {
        register_block<T, S, 1, W>,  register_block<T, S, 2, W>,  register_block<T, S, 3, W>,
        register_block<T, S, 4, W>,  register_block<T, S, 5, W>,  register_block<T, S, 6, W>,
#if FLATCORE_MOST_ROWS > 6
        register_block<T, S, 7, W>,  register_block<T, S, 8, W>,  register_block<T, S, 9, W>,
        register_block<T, S, 10, W>, register_block<T, S, 11, W>, register_block<T, S, 12, W>,
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

// The columns left over after whole groups: the kernels run on padded copies.
template <class T, class S>
void accumulate_tail(Index m, Index p, Index n, const T* xt, Index ldx, const S* w, Index ldw, T* c, Index ldc) {
    constexpr Index group = kVectors * Lanes<T>::count;
    S right[kDepth * group] = {};
    T out[kMostRows * group];
    for (Index k = 0; k < p; ++k)
        for (Index j = 0; j < n; ++j) right[k * group + j] = w[k * ldw + j];
    const RowBlocks blocks(m);
    for (Index b = 0; b < blocks.count; ++b) {
        const Index first = blocks.first(b), rows = blocks.rows(b);
        register_block_of<T, S, Write::overwrite>(rows)(p, xt + first, ldx, right, group, out, group, 0);
        for (Index i = 0; i < rows; ++i)
            for (Index j = 0; j < n; ++j) c[(first + i) * ldc + j] += out[i * group + j];
    }
}

template <class T, class S>
void accumulate_as(Index m, Index p, Index n, const T* xt, Index ldx, const S* w, Index ldw, T* c, Index ldc) {
    constexpr Index group = kVectors * Lanes<T>::count;
    const RowBlocks blocks(m);
    for (Index k = 0; k < p; k += kDepth) {
        const Index depth = p - k < kDepth ? p - k : kDepth;
        const T* left = xt + k * ldx;
        const S* right = w + k * ldw;
        Index j = 0;
        for (; j + group <= n; j += group) {
            const Index ahead = j + (kAhead + 1) * group <= n ? kAhead * group : 0;
            for (Index b = 0; b < blocks.count; ++b) {
                const Index first = blocks.first(b);
                register_block_of<T, S, Write::add>(blocks.rows(b))(depth, left + first, ldx, right + j, ldw,
                                                                    c + first * ldc + j, ldc, b == 0 ? ahead : 0);
            }
        }
        if (j < n) accumulate_tail(m, depth, n - j, left, ldx, right + j, ldw, c + j, ldc);
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
        const auto block = register_block_of<T, T, W>(blocks.rows(b));
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

// C (R × Q) += R rows of X times Q rows of W over n entries; X has room for whole vectors.
template <class T, class S, int R, int Q>
void dot_block(Index n, const T* x, Index ldx, const S* w, Index ldw, T* c, Index ldc, bool ahead) {
    using Vector = typename Lanes<T>::Vector;
    constexpr int L = Lanes<T>::count;
    constexpr int sums = (R * Q + 3) / 4 * 4;
    Vector acc[sums] = {};
    const auto step = [&](const Vector* right, Index j) __attribute__((always_inline)) {
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) {
            Vector left = load(x + i * ldx + j);
            FLATCORE_IN_REGISTER(left);
#pragma GCC unroll 4
            for (int q = 0; q < Q; ++q) acc[i * Q + q] += left * right[q];
        }
    };
    Index j = 0;
    for (; j + L <= n; j += L) {
        Vector right[Q];
#pragma GCC unroll 4
        for (int q = 0; q < Q; ++q) {
            right[q] = Read<T>::from(w + q * ldw + j);
            if (ahead) __builtin_prefetch(w + (q + kDotAhead) * ldw + j);
        }
        step(right, j);
    }
    if (j < n) {
        Vector right[Q];
#pragma GCC unroll 4
        for (int q = 0; q < Q; ++q) {
            S rest[L] = {};
            for (Index e = j; e < n; ++e) rest[e - j] = w[q * ldw + e];
            right[q] = Read<T>::from(rest);
        }
        step(right, j);
    }
    T out[sums];
#pragma GCC unroll 16
    for (int s = 0; s < sums; s += 4) lane_sums(acc[s], acc[s + 1], acc[s + 2], acc[s + 3], out + s);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
        for (int q = 0; q < Q; ++q) c[i * ldc + q] += out[i * Q + q];
}

template <class T, class S>
using DotBlock = void (*)(Index, const T*, Index, const S*, Index, T*, Index, bool);

template <class T, class S, int Q>
DotBlock<T, S> dot_block_of(Index rows) {
    static constexpr DotBlock<T, S> blocks[] = {
        dot_block<T, S, 1, Q>,  dot_block<T, S, 2, Q>,  dot_block<T, S, 3, Q>,
        dot_block<T, S, 4, Q>,  dot_block<T, S, 5, Q>,  dot_block<T, S, 6, Q>,
#if FLATCORE_MOST_ROWS > 6
        dot_block<T, S, 7, Q>,  dot_block<T, S, 8, Q>,  dot_block<T, S, 9, Q>,
        dot_block<T, S, 10, Q>, dot_block<T, S, 11, Q>, dot_block<T, S, 12, Q>,
#endif
    };
    return blocks[rows - 1];
}

template <class T, class S>
void dots_as(Index m, Index p, Index n, const T* x, const S* w, Index ldw, T* c, Index ldc) {
    const RowBlocks blocks(m);
    for (Index r = 0; r < p; r += kDotRows) {
        const Index last = p - r < kDotRows ? p : r + kDotRows;
        for (Index j = 0; j < n; j += kDotChunk) {
            const Index width = n - j < kDotChunk ? n - j : kDotChunk;
            for (Index b = 0; b < blocks.count; ++b) {
                const Index first = blocks.first(b), rows = blocks.rows(b);
                const T* left = x + (j / kDotChunk) * m * kDotChunk + first * kDotChunk;
                Index row = r;
                for (; row + 2 <= last; row += 2)
                    dot_block_of<T, S, 2>(rows)(width, left, kDotChunk, w + row * ldw + j, ldw, c + first * ldc + row,
                                                ldc, b == 0 && row + 2 + kDotAhead <= p);
                if (row < last)
                    dot_block_of<T, S, 1>(rows)(width, left, kDotChunk, w + row * ldw + j, ldw, c + first * ldc + row,
                                                ldc, false);
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

template <class T>
constexpr SkinnyKernels<T> skinny_kernels() {
    return {accumulate<T>, outer<T>, dots<T>};
}
