use super::{attention, attention_with_bias, reference};
use crate::testing::{assert_close, assert_same, randn};

#[test]
fn agrees_with_the_reference_over_shapes() {
    for (seed, (b, h, lq, lk, d)) in
        [(1, 1, 1, 1, 2), (1, 2, 5, 9, 4), (2, 3, 17, 33, 16), (1, 4, 64, 257, 64)].into_iter().enumerate()
    {
        let s = seed as u64;
        let (q, k, v) = (randn(&[b, h, lq, d], s), randn(&[b, h, lk, d], s + 50), randn(&[b, h, lk, d], s + 90));
        let scale = (d as f64).sqrt().recip();
        let bias = randn(&[h, lq, lk], s + 130);
        let want = reference::attention_with_bias(&q, &k, &v, scale, None).unwrap();
        assert_close(&attention(&q, &k, &v, scale).unwrap(), &want, 2e-6);
        let want = reference::attention_with_bias(&q, &k, &v, scale, Some(&bias)).unwrap();
        assert_close(&attention_with_bias(&q, &k, &v, scale, Some(&bias)).unwrap(), &want, 2e-6);
    }
}

#[test]
fn strided_views_and_many_chunks_give_the_same() {
    // 5000 keys × 7000 queries need three chunks; the last queries alone must give the same bits.
    let (q, k, v) = (randn(&[1, 7000, 1, 8], 1), randn(&[1, 5000, 1, 8], 2), randn(&[1, 5000, 1, 8], 3));
    let heads_first = |t: &candle_core::Tensor| t.transpose(1, 2).unwrap();
    let all = attention(&heads_first(&q), &heads_first(&k), &heads_first(&v), 0.3).unwrap();
    let few = heads_first(&q.narrow(1, 6900, 100).unwrap());
    let want = reference::attention_with_bias(&few, &heads_first(&k), &heads_first(&v), 0.3, None).unwrap();
    assert_close(&all.narrow(2, 6900, 100).unwrap(), &want, 2e-6);
}

#[test]
fn queries_do_not_know_of_each_other() {
    for (seed, (heads, queries, keys, width)) in
        [(3, 140, 50, 16), (2, 333, 1111, 24), (12, 700, 5000, 8)].into_iter().enumerate()
    {
        let s = 10 * seed as u64;
        let part = |count, seed| randn(&[1, count, heads, width], seed).transpose(1, 2).unwrap();
        let (q, k, v) = (part(queries, s), part(keys, s + 1), part(keys, s + 2));
        let whole = attention(&q, &k, &v, 0.2).unwrap();
        for most in [129, 256] {
            for rows in crate::pieces(queries, most) {
                let piece = attention(&q.narrow(2, rows.start, rows.len()).unwrap(), &k, &v, 0.2).unwrap();
                assert_same(&piece, &whole.narrow(2, rows.start, rows.len()).unwrap());
            }
        }
    }
}

#[test]
fn no_query_gives_nothing() {
    let nothing = attention(&randn(&[1, 2, 0, 4], 1), &randn(&[1, 2, 3, 4], 2), &randn(&[1, 2, 3, 4], 3), 1.0);
    assert_eq!(nothing.unwrap().dims(), [1, 2, 0, 4]);
}
