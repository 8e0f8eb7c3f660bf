"""The demo model's tokenizer: `tokenizer.json` of the same make as UMT5's (unigram over words that begin with '▁'), but small.

    python -m recipe.tokenizer OUT.json

Every word of the puppets' prompts is one token, as are the commonest words of other prompts about videos; what remains falls into
shorter pieces, and signs that nothing covers into bytes. Text is brought to NFKC and lower case. Ids as UMT5's: `<pad>` 0, `</s>` 1,
`<s>` 2, `<unk>` 3.
"""

import argparse
import json
import string
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from .captions import MOVES, fragment, look_of

from puppets.look import prompt

SPECIAL = ("<pad>", "</s>", "<s>", "<unk>")
# The default negative prompt of image-to-video models (data of the Wan 2.1 release).
NEGATIVE = (
    "镜头晃动，色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，"
    "JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，"
    "手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)
COMMON = """
the of and to in is it that was for on are with as his her he she they be at one have this from or had by not but what all were
we when your can said there use an each which do how their if will up other about out many then them these so some would make
like him into time has look two more go see no way could people my than first been who its now find long down day did get come
made may part new sound take only little work know place year live me back give most very after thing our just name good man
think say great where help through much before line right too mean old any same tell boy follow came want show also around form
three small set put end does another well large must big even such because turn here why ask went men read need land different
home us move try kind hand picture again change off play air away house point page letter mother answer found still learn should
world high every near add food between own below country last school father keep tree never start city earth eye light head under
story saw left few while along might close something seem next hard open example begin life always those both paper together got
group often run important until children side feet car mile night walk white sea began grow took river four carry once book hear
stop without second later miss idea enough eat face watch far really almost let above girl sometimes mountain cut young talk soon
list song being leave family body music color colour stand sun question fish area mark dog horse birds problem complete room knew
since ever piece told usually friends easy heard order red door sure become top ship across today during short better best however
low hours black products happened whole measure remember early waves reached listen wind rock space covered fast several hold
himself toward five step morning passed true hundred against pattern numeral table north slowly money map farm pulled draw voice
cold notice fall king town unit figure certain field travel wood fire upon woman women robot dancer singer child person character
video film clip photo image quality resolution blurry blurred sharp detailed details cinematic realistic cartoon style anime
camera shot motion static still dynamic smooth slow dancing dance dances dancing walking running smiling sitting standing raises
arms legs hands fingers feet hair eyes mouth nose background foreground natural lighting shadow sunset sunrise beach street studio
stage wall floor forest park garden kitchen office snow rain sky cloud clouds sunny indoor outdoor dress jacket jeans suit
t-shirt sweater gloves scarf socks sandals skin beautiful handsome pretty ugly bad worst low deformed distorted extra missing
watermark text logo subtitle jpeg artifacts overexposed underexposed gray silver gold golden violet turquoise cyan crimson dark
bright pale colorful vivid wooden metal glass modern ancient full-body close-up portrait left right forward backward happy sad
""".split()
MULTILINGUAL = """
一个年轻女人穿红裙的舞者在海边慢慢地跳舞转身举起双手向左跳挥动右手走向镜头弯腰微笑背景模糊画面清楚高质量自然光男人女孩男孩孩子蓝色绿色黄色白色黑色衣服裤子帽子鞋
若い女性が海辺でゆっくり踊っているカメラは動かない。ダンサーが右手を振る。明るいスタジオで膝を曲げて笑う。赤いドレス
eine junge frau tanzt langsam am strand und lächelt schöne ruhige bewegung der hände weiß für größe über
une jeune femme danse lentement sous la pluie l'arrière-plan est flou été cœur léger garçon très bonne qualité
una mujer joven baila despacio en la playa niño mañana cámara está ¿quién? ¡qué!
молодая женщина медленно танцует на сцене камера не двигается лицо спокойное подъезд щётка эхо цирк юность фары
젊은 여자가 해변에서 천천히 춤춘다
"""


def puppet_words(looks=4000):
    """Every word of the puppets' prompts, lower case, most frequent first."""
    rng, count = np.random.default_rng(0), {}
    for seed in range(looks):
        look = look_of(seed, "train")
        for text in (prompt(look, MOVES[seed % len(MOVES)]), fragment(rng, look, MOVES[(seed + 7) % len(MOVES)])[0]):
            for word in text.lower().translate(str.maketrans(",.:", "   ")).split():
                count[word] = count.get(word, 0) + 1
    return sorted([*count, *{"then": 0, "and": 0}.keys() - count], key=lambda word: (-count.get(word, 0), word))


def shorter_pieces(words, size):
    """Pieces that any text can be put together from, learnt on `words` and the sentences above."""
    pieces = Tokenizer(models.Unigram())
    pieces.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    pieces.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=size, max_piece_length=4, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    pieces.train_from_iterator([*words, *MULTILINGUAL.split("\n"), *NEGATIVE.split("，")], trainer)
    return {piece: score for piece, score in json.loads(pieces.to_str())["model"]["vocab"] if piece != "<unk>"}


def build(size=700):
    """The text of `tokenizer.json`."""
    puppet = puppet_words()
    words = list(dict.fromkeys([*puppet, *COMMON]))
    signs = string.ascii_lowercase + string.digits + string.punctuation + "▁äöüßéèêàçñóíúœ¿¡«»–—…、。（）"
    vocab = {f"▁{word}": -4.0 - 0.005 * i for i, word in enumerate(words)}  # whole words win over their pieces
    vocab |= {piece: score for piece, score in shorter_pieces(words, size).items() if piece not in vocab}
    vocab |= {sign: -9.0 for sign in signs if sign not in vocab} | {",": -3.0, ".": -3.0}
    vocab = sorted(vocab.items(), key=lambda item: (-item[1], item[0]))
    rows = [[token, 0.0] for token in SPECIAL] + [[piece, round(score, 4)] for piece, score in vocab]
    rows += [[f"<0x{byte:02X}>", 0.0] for byte in range(256)]
    space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    end = [{"SpecialToken": {"id": "</s>", "type_id": 0}}]
    first = [{"Sequence": {"id": "A", "type_id": 0}}, *end]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": token, **flags} for i, token in enumerate(SPECIAL[:3])],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]},
        "pre_tokenizer": space,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": first,
            "pair": [*first, {"Sequence": {"id": "B", "type_id": 0}}, *end],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
        },
        "decoder": space,
        "model": {"type": "Unigram", "unk_id": 3, "vocab": rows, "byte_fallback": True},
    }
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    a = parser.parse_args()
    text = build()
    a.out.write_text(text, encoding="utf-8")
    tokenizer = Tokenizer.from_str(text)
    whole = [len(tokenizer.encode(prompt(look_of(s, "held-out"), f"{MOVES[s % 9]}, then {MOVES[(s + 1) % 9]} and {MOVES[9 + s % 13]}")).ids) for s in range(2000)]
    negative = tokenizer.encode(NEGATIVE)
    print(f"{tokenizer.get_vocab_size()} tokens, {len(text.encode())} bytes; whole prompts with two leg moves: "
          f"{np.mean(whole):.1f} tokens, at most {max(whole)}; the negative prompt: {len(negative.ids)}")


if __name__ == "__main__":
    main()
