// Skinny products on one thread; equations in simd.hpp. Included inside a set's own namespace, after lanes.inc.hpp.
//
// All are register blocks of kMostRows × kVectors accumulators. `accumulate` and `outer` share one: a column group of
// kVectors vectors, to which each row k of the right operand adds broadcast(left_k) times itself. A group's p ×
// kVectors vectors of W stay in the first cache while the row blocks pass. `dots` keeps sums along the rows of W and X.
//
// cost  2·m·p·n flops; per multiply–add vector about 1 / kVectors + 1 / rows loads.

constexpr int kVectors = 2;
constexpr int kMostRows = FLATCORE_MOST_ROWS;
constexpr Index kDepth = 32;         // rows of W that a column group stays for
constexpr Index kAhead = 4;          // column groups prefetched ahead
constexpr Index kDotRows = 32;       // rows of W that a chunk of X stays for
constexpr Index kDotAhead = 4;       // rows of W prefetched ahead
constexpr Index kCopied = 8;         // rows of W converted together
constexpr Index kCopiedBlocks = 14;  // row blocks of X that share such a copy

constexpr int kNormalRows = kMostRows / 3;  // of X, and of W at a time, in `normal`: their product is in registers

constexpr Index kNormalBatch = 16;              // rows of W that `normal` uses up together,
constexpr Index kNormalBytes = Index{1} << 18;  // and their size: two batches and X, C stay in the second cache
constexpr Index kNormalAhead = 16;              // vectors of a row of W prefetched ahead

constexpr Index kFirstCache = 32 * 1024;

enum class Write { add, overwrite, stream };

// C (R × V vectors) = [C +] Σ_k left(k, ·) row(k, ·), row(k, v) being vector v of the right operand's row k.
template <class T, int R, int V, Write W, class Row>
inline __attribute__((always_inline)) void sum_block(Index p, const T* left, Index ldl, const Row& row, T* c,
                                                     Index ldc) {
    using Vector = typename Lanes<T>::Vector;
    constexpr int L = Lanes<T>::count;
    Vector acc[R][V];
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[i][v] = W == Write::add ? load(c + i * ldc + v * L) : Vector{};
    for (Index k = 0; k < p; ++k, left += ldl) {
        Vector w[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) w[v] = row(k, v);
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) {
            const T x = left[i];
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) acc[i][v] += x * w[v];
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
            if (W == Write::stream)
                store_past_caches(c + i * ldc + v * L, acc[i][v]);
            else
                store(c + i * ldc + v * L, acc[i][v]);
        }
}

// The block with kVectors vectors of rows as they lie; `ahead`: entries from a right row to what is prefetched.
template <class T, int R, Write W>
void register_block(Index p, const T* left, Index ldl, const T* right, Index ldr, T* c, Index ldc, Index ahead) {
    const auto row = [&](Index k, int v) __attribute__((always_inline)) {
        const T* at = right + k * ldr + v * Lanes<T>::count;
        if (ahead) __builtin_prefetch(at + ahead);
        return load(at);
    };
    sum_block<T, R, kVectors, W>(p, left, ldl, row, c, ldc);
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

// visit(W as what it is stored as), where T holds that precision.
template <class T, class Visit>
void with_stored(Scalar stored, const void* w, const Visit& visit) {
    switch (stored) {
        case Scalar::f32:
            return visit(static_cast<const float*>(w));
        case Scalar::f64:
            if constexpr (sizeof(T) == 8) visit(static_cast<const double*>(w));
            return;
        case Scalar::f16:
            return visit(static_cast<const F16*>(w));
        case Scalar::bf16:
            return visit(static_cast<const BF16*>(w));
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

// Entries before the first aligned one of a row, 0 where rows differ.
template <class S>
Index aligned_lead(const S* w, Index ldw) {
    constexpr Index size = Index(sizeof(S));
    const Index past = static_cast<Index>(reinterpret_cast<std::uintptr_t>(w)) % FLATCORE_VECTOR_BYTES;
    return past % size == 0 && ldw * size % FLATCORE_VECTOR_BYTES == 0 && past ? (FLATCORE_VECTOR_BYTES - past) / size
                                                                               : 0;
}

// Columns up to the first aligned ones are a group of their own. One row block reads W where it lies; several share a
// copy in the first cache, which is also where W is widened.
template <class T, class S>
void accumulate_as(Index m, Index p, Index n, const T* xt, Index ldx, const S* w, Index ldw, T* c, Index ldc) {
    constexpr Index group = kVectors * Lanes<T>::count;
    const RowBlocks blocks(m);
    const Index lead = Same<T, S>::value ? aligned_lead(w, ldw) : 0;
    alignas(64) T panel[kDepth * group], sums[kMostRows * group];
    for (Index k = 0; k < p; k += kDepth) {
        const Index depth = p - k < kDepth ? p - k : kDepth;
        const T* left = xt + k * ldx;
        for (Index j = 0, columns; j < n; j += columns) {
            const S* from = w + k * ldw + j;
            const Index whole = j == 0 && lead > 0 ? lead : group;
            columns = n - j < whole ? n - j : whole;
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
                for (Index i = 0; i < rows; ++i)
                    for (Index e = 0; e < group; ++e) sums[i * group + e] = e < columns ? target[i * ldc + e] : T(0);
                register_block_of<T, Write::add>(rows)(depth, left + first, ldx, panel, group, sums, group, 0);
                for (Index i = 0; i < rows; ++i)
                    for (Index e = 0; e < columns; ++e) target[i * ldc + e] = sums[i * group + e];
            }
        }
    }
}

template <class T>
void accumulate(Scalar stored, Index m, Index p, Index n, const T* xt, Index ldx, const void* w, Index ldw, T* c,
                Index ldc) {
    with_stored<T>(stored, w, [&](const auto* rows) { accumulate_as(m, p, n, xt, ldx, rows, ldw, c, ldc); });
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

// One chunk of a pair of rows of W: `count` packed entries, the first of which is entry `from` of the rows; `n` entries
// in a row, `ahead` of which what is prefetched lies.
template <class T>
struct RowPair {
    const T* w;
    Index ldw, n, from, count, ahead;
};

// The entries [from, from + lanes) of a row of n, as T, with zeros outside of the row, which they leave on one side.
template <class T, class S>
typename Lanes<T>::Vector edge_of(const S* row, Index n, Index from) {
    constexpr int L = Lanes<T>::count;
    S around[2 * L] = {};
    if (n < L) {
        for (Index e = 0; e < n; ++e) around[e - from] = row[e];
        return Read<T>::from(around);
    }
    if (from < 0) {
        __builtin_memcpy(around - from, row, L * sizeof(S));
        return Read<T>::from(around);
    }
    __builtin_memcpy(around, row + n - L, L * sizeof(S));
    return Read<T>::from(around + (from - (n - L)));
}

// sums (R × 2 vectors, lane by lane) += R rows of a chunk of X times two rows of W.
template <class T, int R>
void dot_block(const T* x, const RowPair<T>& pair, T* sums) {
    using Vector = typename Lanes<T>::Vector;
    constexpr int L = Lanes<T>::count;
    Vector acc[2 * R];
#pragma GCC unroll 32
    for (int s = 0; s < 2 * R; ++s) acc[s] = load(sums + s * L);
    const auto add = [&](Index j, Vector first, Vector second) __attribute__((always_inline)) {
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) {
            Vector left = load(x + i * kDotChunk<T> + j);
            FLATCORE_IN_REGISTER(left);
            acc[2 * i] += left * first;
            acc[2 * i + 1] += left * second;
        }
    };
    const T *upper = pair.w, *lower = pair.w + pair.ldw;
    const bool starts = pair.from<0, ends = pair.from + pair.count> pair.n;
    Index j = 0;
    if (starts) {
        add(0, edge_of<T>(upper, pair.n, pair.from), edge_of<T>(lower, pair.n, pair.from));
        j = L;
    }
    const Index whole = ends ? pair.count - L : pair.count, ahead = pair.ahead;
    for (; j < whole; j += L) {
        const Index at = pair.from + j;
        if (ahead) {
            __builtin_prefetch(upper + at + ahead);
            __builtin_prefetch(lower + at + ahead);
        }
        add(j, load(upper + at), load(lower + at));
    }
    if (ends) add(whole, edge_of<T>(upper, pair.n, pair.from + whole), edge_of<T>(lower, pair.n, pair.from + whole));
#pragma GCC unroll 32
    for (int s = 0; s < 2 * R; ++s) store(sums + s * L, acc[s]);
}

template <class T>
using DotBlock = void (*)(const T*, const RowPair<T>&, T*);

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

// C (m × rows) += the sums over the lanes of a tile's pairs of rows.
template <class T>
void add_lane_sums(Index m, Index rows, const T* sums, T* c, Index ldc) {
    constexpr int L = Lanes<T>::count;
    for (Index row = 0; row < rows; row += 2)
        for (Index i = 0; i < m; i += 2, sums += 4 * L) {
            T out[4];
            lane_sums(load(sums), load(sums + L), load(sums + 2 * L), load(sums + 3 * L), out);
            for (Index e = 0; e < 4; ++e)
                if (i + e / 2 < m && row + e % 2 < rows) c[(i + e / 2) * ldc + row + e % 2] += out[e];
            if (i + 2 > m) sums -= 2 * L;
        }
}

// A chunk of a row block of X stays in the first cache while a tile's rows of W pass, which stay in the second; so do
// their sums, lane by lane. Where all of X fits the first cache, two rows of W pass at a time, whole.
template <class T>
void direct_dots(Index m, Index p, const RowCut& cut, const T* x, const T* w, Index ldw, T* c, Index ldc) {
    constexpr int L = Lanes<T>::count;
    const RowBlocks blocks(m);
    const Index tile = m * cut.n * Index(sizeof(T)) <= kFirstCache ? 2 : kDotRows, packed = cut.packed;
    alignas(64) T sums[(kDotRows * kMostRows + 2) * L];
    for (Index r = 0; r < p; r += tile) {
        const Index last = p - r < tile ? p : r + tile;
        for (Index b = 0; b < blocks.count; ++b) {
            const Index first = blocks.first(b), rows = blocks.rows(b), pairs = (last - r + 1) / 2;
            const auto block = dot_block_of<T>(rows);
            for (Index e = 0; e < (pairs * rows * 2 + 2) * L; ++e) sums[e] = T(0);
            for (Index j = 0; j < packed; j += kDotChunk<T>) {
                const Index count = packed - j < kDotChunk<T> ? packed - j : kDotChunk<T>;
                for (Index row = r; row < last; row += 2) {
                    const Index ahead = b == 0 ? row_ahead<T>(r, row, last, p, j, packed, ldw) : 0;
                    block(x + j * m + first * kDotChunk<T>,
                          {w + row * ldw, row + 1 < last ? ldw : 0, cut.n, j - cut.shift, count, ahead},
                          sums + (row - r) * rows * L);
                }
            }
            add_lane_sums(rows, last - r, sums, c + first * ldc + r, ldc);
        }
    }
}

// Rows are converted, or padded, into a copy in the first cache, which row blocks of X share. Their sums, lane by lane,
// grow over the whole row.
template <class T, class S>
void copied_dots(Index m, Index p, const RowCut& cut, const T* x, const S* w, Index ldw, T* c, Index ldc) {
    constexpr int L = Lanes<T>::count;
    const RowBlocks blocks(m);
    alignas(64) T copy[kCopied * kDotChunk<T>], sums[(kCopied * kCopiedBlocks * kMostRows + 2) * L];
    for (Index r = 0; r < p; r += kCopied) {
        const Index rows = p - r < kCopied ? p - r : kCopied, paired = (rows + 1) / 2 * 2;
        for (Index b0 = 0; b0 < blocks.count; b0 += kCopiedBlocks) {
            const Index b1 = blocks.count - b0 < kCopiedBlocks ? blocks.count : b0 + kCopiedBlocks;
            const auto sums_of = [&](Index b) { return sums + paired * (blocks.first(b) - blocks.first(b0)) * L; };
            for (T* sum = sums; sum < sums_of(b1) + 2 * L; ++sum) *sum = T(0);
            for (Index j = 0; j < cut.packed; j += kDotChunk<T>) {
                const Index width = cut.packed - j < kDotChunk<T> ? cut.packed - j : kDotChunk<T>;
                const Index columns = cut.n - j < width ? cut.n - j : width;
                widen<T>(rows, columns, width, w + r * ldw + j, ldw, copy, r + 2 * kCopied <= p ? kCopied * ldw : 0);
                for (Index b = b0; b < b1; ++b)
                    for (Index row = 0; row < rows; row += 2)
                        dot_block_of<T>(blocks.rows(b))(
                            x + j * m + blocks.first(b) * kDotChunk<T>,
                            {copy + row * width, row + 1 < rows ? width : 0, width, 0, width, 0},
                            sums_of(b) + row * blocks.rows(b) * L);
            }
            for (Index b = b0; b < b1; ++b)
                add_lane_sums(blocks.rows(b), rows, sums_of(b), c + blocks.first(b) * ldc + r, ldc);
        }
    }
}

template <class T>
void dots(Scalar stored, Index m, Index p, const RowCut& cut, const T* x, const void* w, Index ldw, T* c, Index ldc) {
    if (!cut.copied) return direct_dots(m, p, cut, x, static_cast<const T*>(w), ldw, c, ldc);
    with_stored<T>(stored, w, [&](const auto* rows) { copied_dots(m, p, cut, x, rows, ldw, c, ldc); });
}

// A batch of rows of W and the products b = scale·X·Wᵀ with them, which are to be added to C.
template <class T, class S>
struct KnownRows {
    const S* w;
    Index ldw, count;
    const T* b;  // count × R
};

// V vectors of C from column j on += b·W for the rows known. `edge`: they may lie partly outside of W.
template <class T, class S, int R, int V>
inline __attribute__((always_inline)) void use_up(const KnownRows<T, S>& known, const RowCut& cut, Index j, bool edge,
                                                  T* c) {
    const auto row = [&](Index k, int v) __attribute__((always_inline)) {
        const S* at = known.w + k * known.ldw;
        const Index from = j - cut.shift + v * Lanes<T>::count;
        return edge ? edge_of<T>(at, cut.n, from) : Read<T>::from(at + from);
    };
    sum_block<T, R, V, Write::add>(known.count, known.b, R, row, c + j, cut.packed);
}

// b (G × R) = scale·W·Xᵀ for G rows of W, `ldw` apart, while the columns [begin, end) of the rows known are used up: so
// memory brings new rows while there is arithmetic for the old ones.
template <class T, class S, int R, int G>
void multiply_rows(const RowCut& cut, const T* x, const S* w, Index ldw, T scale, T* b, const KnownRows<T, S>& known,
                   Index begin, Index end, T* c) {
    using Vector = typename Lanes<T>::Vector;
    constexpr int L = Lanes<T>::count, kSteps = 8, sums = (R * G + 3) / 4 * 4;
    const Index first = cut.shift > 0 ? L : 0, last = (cut.shift + cut.n) / L * L;
    Vector acc[sums] = {};
    const auto add = [&](Index j, const auto& fresh) __attribute__((always_inline)) {
        Vector w[G];
#pragma GCC unroll 4
        for (int g = 0; g < G; ++g) w[g] = fresh(g);
#pragma GCC unroll 4
        for (int i = 0; i < R; ++i) {
            Vector left = load(x + i * cut.packed + j);
            FLATCORE_IN_REGISTER(left);
#pragma GCC unroll 4
            for (int g = 0; g < G; ++g) acc[g * R + i] += left * w[g];
        }
    };
    const auto inside = [&](Index j) __attribute__((always_inline)) {
        add(j, [&](int g) __attribute__((always_inline)) {
            const S* at = w + g * ldw + (j - cut.shift);
            __builtin_prefetch(at + kNormalAhead * L);
            return Read<T>::from(at);
        });
    };
    const auto edge = [&](Index j) { add(j, [&](int g) { return edge_of<T>(w + g * ldw, cut.n, j - cut.shift); }); };
    if (first > 0) edge(0);
    Index j = first, used = begin;
    if (used < first && used < end) {
        use_up<T, S, R, 1>(known, cut, used, true, c);
        used += L;
    }
    const Index whole = end < last ? end : last, pairs = ((end - begin) * (kSteps / 2) + cut.packed - 1) / cut.packed;
    for (; j + kSteps * L <= last; j += kSteps * L) {
#pragma GCC unroll 8
        for (int step = 0; step < kSteps; ++step) inside(j + step * L);
        for (Index n = 0; n < pairs && used + 2 * L <= whole; ++n, used += 2 * L) {
            if constexpr (Same<T, S>::value) {
                use_up<T, S, R, 2>(known, cut, used, false, c);
            } else {  // beside what widening takes, sums of two vectors would not stay in registers
                use_up<T, S, R, 1>(known, cut, used, false, c);
                use_up<T, S, R, 1>(known, cut, used + L, false, c);
            }
        }
    }
    for (; j < last; j += L) inside(j);
    if (last < cut.packed) edge(last);
    for (; used < whole; used += L) use_up<T, S, R, 1>(known, cut, used, false, c);
    for (; used < end; used += L) use_up<T, S, R, 1>(known, cut, used, true, c);
    T out[sums];
    for (int s = 0; s < sums; s += 4) lane_sums(acc[s], acc[s + 1], acc[s + 2], acc[s + 3], out + s);
    for (int s = 0; s < R * G; ++s) b[s] = scale * out[s];
}

// Batches of rows that stay in the second cache: while one is multiplied, G rows at a time, the one before is used up,
// a share of its columns with every G rows.
template <class T, class S, int R, int G>
void normal_rows(Index p, const RowCut& cut, const T* x, const S* w, Index ldw, T scale, T* c) {
    constexpr Index L = Lanes<T>::count;
    const Index fits = kNormalBytes / (cut.n * Index(sizeof(S))) / G * G;
    const Index batch = fits < G ? G : fits > kNormalBatch ? kNormalBatch : fits, vectors = cut.packed / L;
    T b[2][kNormalBatch * R];
    KnownRows<T, S> known{w, ldw, 0, b[1]};
    for (Index r = 0; r < p; r += batch) {
        const Index count = p - r < batch ? p - r : batch, groups = (count + G - 1) / G;
        T* const fresh = b[(r / batch) % 2];
        for (Index g = 0; g < groups; ++g) {
            const Index begin = vectors * g / groups * L, end = vectors * (g + 1) / groups * L, row = g * G;
            if (row + G <= count)
                multiply_rows<T, S, R, G>(cut, x, w + (r + row) * ldw, ldw, scale, fresh + row * R, known, begin, end,
                                          c);
            else
                for (Index i = row; i < count; ++i)
                    multiply_rows<T, S, R, 1>(cut, x, w + (r + i) * ldw, ldw, scale, fresh + i * R, known,
                                              i == row ? begin : end, end, c);
        }
        known = {w + r * ldw, ldw, count, fresh};
    }
    for (Index j = 0; j < cut.packed; j += L)
        use_up<T, S, R, 1>(known, cut, j, j < cut.shift || j + L > cut.shift + cut.n, c);
}

template <class T, class S>
void normal_as(Index m, Index p, const RowCut& cut, const T* x, const S* w, Index ldw, T scale, T* c) {
    using Rows = void (*)(Index, const RowCut&, const T*, const S*, Index, T, T*);
    static constexpr Rows rows[] = {
        normal_rows<T, S, 1, kNormalRows>,
        normal_rows<T, S, 2, kNormalRows>,
#if FLATCORE_MOST_ROWS > 6
        normal_rows<T, S, 3, kNormalRows>,
        normal_rows<T, S, 4, kNormalRows>,
#endif
    };
    rows[m - 1](p, cut, x, w, ldw, scale, c);
}

template <class T>
void normal(Scalar stored, Index m, Index p, const RowCut& cut, const T* x, const void* w, Index ldw, T scale, T* c) {
    with_stored<T>(stored, w, [&](const auto* rows) { normal_as(m, p, cut, x, rows, ldw, scale, c); });
}

template <class T>
constexpr SkinnyKernels<T> skinny_kernels() {
    return {accumulate<T>, outer<T>, dots<T>, normal<T>, Lanes<T>::count, kNormalRows};
}
