use super::{attention, attention_with_bias, reference};
use crate::testing::{assert_close, randn};

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
