"""Writes tests/fixtures/tokenizer: a small tokenizer of the same make as google/umt5-xxl's, and prompts with their ids.

The tokenizer is a SentencePiece unigram model trained on the sentences below (nmt_nfkc, ids of umT5: pad 0, </s> 1,
<s> 2, <unk> 3) and turned into a `tokenizer.json` by transformers' T5 converter, so it carries the real
precompiled character map. The ids are transformers' own.
"""

import io
import json
import random
import string
import tempfile
from pathlib import Path
from types import SimpleNamespace

import sentencepiece
from tokenizers import AddedToken
from transformers.convert_slow_tokenizer import T5Converter

from wan_text import DEFAULT_NEGATIVE_PROMPT, TEXT_LEN, clean, encode, load_tokenizer

OUT = Path(__file__).resolve().parent.parent / "fixtures" / "tokenizer"
PIECES = 1800
EXTRA_IDS = 3

# language: (who, does what, where, how it looks, join)
CORPUS = {
    "English": (
        ["a young woman", "an old man", "the dancer", "two children", "a robot", "the singer in a red dress"],
        ["is dancing slowly", "turns around and raises both arms", "jumps to the left", "waves her right hand",
         "walks towards the camera", "bends the knees and smiles"],
        ["on a beach at sunset", "in a bright studio", "in front of a white wall", "under the street lights",
         "in the rain", "on a wooden stage"],
        ["The background is blurred.", "High quality, natural light.", "The camera doesn't move.",
         "Her hair moves softly; the face is calm.", "\"Cinematic\" look (35 mm).", "It's a full-body shot."],
        " ",
    ),
    "Chinese": (
        ["一个年轻女人", "穿红裙的舞者", "一位老人", "两个孩子", "机器人", "歌手"],
        ["慢慢地跳舞", "转身举起双手", "向左跳", "挥动右手", "走向镜头", "弯腰微笑"],
        ["在海边", "在明亮的房间里", "在白色的墙前", "在街灯下", "在雨中", "在舞台上"],
        ["背景模糊，画面清楚。", "高质量，自然光。", "镜头不动。", "细节很多，色调静止。", "低质量，不好的手部。", "整体风格静态。"],
        "",
    ),
    "Japanese": (
        ["若い女性が", "ダンサーが", "老人が", "二人の子供が", "ロボットが", "赤いドレスの歌手が"],
        ["ゆっくり踊っている", "振り向いて両手を上げる", "左へジャンプする", "右手を振る", "カメラに向かって歩く", "膝を曲げて笑う"],
        ["海辺で", "明るいスタジオで", "白い壁の前で", "街灯の下で", "雨の中で", "舞台の上で"],
        ["背景はぼやけている。", "高品質、自然光。", "カメラは動かない。", "髪が静かに揺れる。", "映画のような画面。", "全身が見える。"],
        "",
    ),
    "German": (
        ["eine junge Frau", "ein alter Mann", "die Tänzerin", "zwei Kinder", "ein Roboter", "die Sängerin im roten Kleid"],
        ["tanzt langsam", "dreht sich um und hebt beide Arme", "springt nach links", "winkt mit der rechten Hand",
         "geht auf die Kamera zu", "beugt die Knie und lächelt"],
        ["am Strand", "in einem hellen Studio", "vor einer weißen Wand", "unter den Straßenlampen", "im Regen", "auf der Bühne"],
        ["Der Hintergrund ist unscharf.", "Hohe Qualität, natürliches Licht.", "Die Kamera bewegt sich nicht.",
         "Schöne, ruhige Bewegung.", "Großaufnahme der Hände.", "Das Bild ist überbelichtet."],
        " ",
    ),
    "French": (
        ["une jeune femme", "un vieil homme", "la danseuse", "deux enfants", "un robot", "la chanteuse en robe rouge"],
        ["danse lentement", "se retourne et lève les bras", "saute à gauche", "salue de la main droite",
         "marche vers la caméra", "plie les genoux et sourit"],
        ["sur la plage", "dans un studio clair", "devant un mur blanc", "sous les réverbères", "sous la pluie", "sur la scène"],
        ["L'arrière-plan est flou.", "Très bonne qualité, lumière naturelle.", "La caméra ne bouge pas.",
         "Ses cheveux flottent à l'air.", "Été, forêt, cœur léger.", "Le garçon reste immobile."],
        " ",
    ),
    "Russian": (
        ["молодая женщина", "старый мужчина", "танцовщица", "двое детей", "робот", "певица в красном платье"],
        ["медленно танцует", "поворачивается и поднимает руки", "прыгает влево", "машет правой рукой",
         "идёт к камере", "сгибает колени и улыбается"],
        ["на пляже", "в светлой студии", "у белой стены", "под фонарями", "под дождём", "на сцене"],
        ["Фон размыт.", "Высокое качество, естественный свет.", "Камера не двигается.", "Лицо спокойное.",
         "Кадр в полный рост.", "Цвета яркие."],
        " ",
    ),
    "Arabic": (
        ["امرأة شابة", "رجل عجوز", "الراقصة", "طفلان", "روبوت", "المغنية"],
        ["ترقص ببطء", "تستدير وترفع يديها", "تقفز إلى اليسار", "تلوح بيدها اليمنى", "تمشي نحو الكاميرا", "تبتسم"],
        ["على الشاطئ", "في استوديو مشرق", "أمام جدار أبيض", "تحت أضواء الشارع", "في المطر", "على المسرح"],
        ["الخلفية ضبابية.", "جودة عالية، ضوء طبيعي.", "الكاميرا لا تتحرك.", "الوجه هادئ.", "لقطة كاملة.", "الألوان زاهية."],
        " ",
    ),
    "Spanish": (
        ["una mujer joven", "un hombre viejo", "la bailarina", "dos niños", "un robot", "la cantante de vestido rojo"],
        ["baila despacio", "gira y levanta los brazos", "salta a la izquierda", "saluda con la mano derecha",
         "camina hacia la cámara", "dobla las rodillas y sonríe"],
        ["en la playa", "en un estudio luminoso", "ante una pared blanca", "bajo las farolas", "bajo la lluvia", "en el escenario"],
        ["El fondo está borroso.", "Alta calidad, luz natural.", "¡La cámara no se mueve!", "¿Quién baila mañana?",
         "Plano de cuerpo entero.", "Los colores son vivos."],
        " ",
    ),
    "Korean": (
        ["젊은 여자가", "노인이", "댄서가", "두 아이가", "로봇이", "가수가"],
        ["천천히 춤춘다", "돌아서 두 팔을 든다", "왼쪽으로 뛴다", "오른손을 흔든다", "카메라로 걸어간다", "무릎을 굽히고 웃는다"],
        ["해변에서", "밝은 방에서", "하얀 벽 앞에서", "가로등 아래에서", "비 속에서", "무대 위에서"],
        ["배경이 흐리다.", "높은 품질, 자연광.", "카메라는 움직이지 않는다.", "얼굴이 차분하다.", "전신이 보인다.", "색이 밝다."],
        " ",
    ),
}

# (language, prompt)
PROMPTS = [
    ("English", "A young woman in a red dress is dancing slowly on a beach at sunset."),
    ("English", "The dancer turns around, raises both arms and jumps to the left; the camera doesn't move."),
    ("English", "  \t leading and trailing whitespace \n\n and\r\na   run\t\tof tabs, new lines  \n"),
    ("English", "“Curly” quotes and ‘single’ ones — a dash… and it’s fine"),
    ("English", "Fish &amp;amp; chips, &amp;quot;quoted twice&amp;quot; and &lt;b&gt;bold&lt;/b&gt; &#39;once&#39; &copy; &eacute;"),
    ("English", "entities &amp without semicolon, &#x41; &#128; &hearts; &bogus; AT&T"),
    ("English", "an eﬃcient ﬁlm of ﬂowers, ﬁve ﬀ ligatures"),
    ("English", "non\u00a0breaking\u00a0space, thin\u2009space, zero\u200bwidth and a\u3000wide one"),
    ("English", "a literal </s> and <extra_id_0> and <unk> inside the text"),
    ("English", "snake_case, CamelCase, 1920x1080 @ 24fps, #1: $3.50 (100%) [x] {y} ~z^2 \\ | /path"),
    ("English", ""),
    ("English", " \t\n "),
    ("English", "x"),
    ("English", "mojibake: schÃ¶n, naÃ¯ve cafÃ©, itâ€™s fixed"),
    ("English", "control \u0007 bell, \ufeff mark, \u001b[31mred\u001b[0m escape, soft\u00adhyphen"),
    ("Chinese", DEFAULT_NEGATIVE_PROMPT),
    ("Chinese", DEFAULT_NEGATIVE_PROMPT.removeprefix("镜头晃动，")),
    ("Chinese", "一个年轻女人在海边慢慢地跳舞。背景模糊，画面清楚！"),
    ("Chinese", "Ｆｕｌｌ－ｗｉｄｔｈ　ＡＢＣ１２３（全角）：“引号”；《书名》、顿号。"),
    ("Japanese", "若い女性が海辺でゆっくり踊っている。カメラは動かない。"),
    ("Japanese", "ﾊﾝｶｸ ｶﾀｶﾅ と ㌔㍍、①②③、が（結合文字：か\u3099）"),
    ("German", "Die Tänzerin dreht sich um und lächelt. Schöne, ruhige Bewegung – „Großaufnahme“ der Hände."),
    ("German", "Eine Frau la\u0308chelt u\u0308ber die Stra\u00dfe (zerlegte Umlaute)"),
    ("French", "Une jeune femme danse lentement sous la pluie ; l’arrière-plan est flou. « Été, cœur léger »"),
    ("Spanish", "¡La bailarina gira y sonríe! ¿Quién baila mañana en el escenario?"),
    ("Russian", "Молодая женщина медленно танцует на сцене. Камера не двигается — лицо спокойное."),
    ("Arabic", "امرأة شابة ترقص ببطء على الشاطئ، الخلفية ضبابية؟"),
    ("Arabic", "الرَّاقِصَةُ تَبْتَسِمُ ﷺ ١٢٣"),
    ("Korean", "젊은 여자가 해변에서 천천히 춤춘다. 카메라는 움직이지 않는다."),
    ("Hindi", "एक युवा महिला समुद्र तट पर नाच रही है।"),
    ("mixed", "emoji 💃🏽🕺 and 👩‍👩‍👧 family, ☀️ ™ ½ ² ℃ №5"),
    ("mixed", "A robot 机器人 ロボット робот روبوت 로봇 dances"),
    ("English", "The singer in a red dress walks towards the camera and waves her right hand. " * 60),
    ("Chinese", "机器人转身举起双手，" * 120),
]


def corpus() -> list[str]:
    rng = random.Random(20)
    lines = []
    for who, does, where, look, join in CORPUS.values():
        for _ in range(120):
            sentence = join.join([rng.choice(who), rng.choice(where), rng.choice(does)])
            lines.append(sentence[0].upper() + sentence[1:] + ("。" if join == "" else ".") + join + rng.choice(look))
    # Most characters of the default negative prompt and of plain European text are known; the rest stays unknown.
    lines += DEFAULT_NEGATIVE_PROMPT.split("，")[1:] * 3
    lines += [" ".join(string.ascii_letters + string.digits), " ".join(string.punctuation + "äöüßéèêàçñóíúœ¿¡«»„“")] * 3
    return lines


def train() -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()),
        model_writer=model,
        model_type="unigram",
        vocab_size=PIECES,
        hard_vocab_limit=False,
        character_coverage=1.0,
        normalization_rule_name="nmt_nfkc",
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def convert(model: bytes) -> str:
    """The `tokenizer.json` that transformers makes of a T5 SentencePiece model, on as few bytes as JSON allows."""
    with tempfile.NamedTemporaryFile(suffix=".model") as file:
        file.write(model)
        file.flush()
        slow = SimpleNamespace(
            vocab_file=file.name, _extra_ids=EXTRA_IDS, convert_tokens_to_ids={"</s>": 1}.__getitem__
        )
        tokenizer = T5Converter(slow).converted()
    tokenizer.add_special_tokens(
        [AddedToken(f"<extra_id_{i}>", normalized=False, special=True) for i in range(EXTRA_IDS)]
    )
    return json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, separators=(",", ":"))


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / "tokenizer.json"
    path.write_text(convert(train()), encoding="utf-8")
    tokenizer = load_tokenizer(path)
    for token, id in {"<pad>": 0, "</s>": 1, "<s>": 2, "<unk>": 3}.items():
        assert tokenizer.convert_tokens_to_ids(token) == id, token

    cases = []
    for language, prompt in PROMPTS:
        cleaned = clean(prompt)
        ids = encode(tokenizer, cleaned)
        assert ids[-1] == 1 and len(ids) <= TEXT_LEN
        cases.append({"language": language, "prompt": prompt, "cleaned": cleaned, "ids": ids, "n": len(ids)})
    assert sum(case["n"] == TEXT_LEN for case in cases) >= 2, "no prompt is long enough to be truncated"
    rows = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    (OUT / "prompts.json").write_text(f"[\n{rows}\n]\n", encoding="utf-8")

    unknown = sum(case["ids"].count(3) for case in cases)
    print(f"{path.name}: {len(tokenizer)} pieces, {path.stat().st_size} bytes; "
          f"{len(cases)} prompts in {len({c['language'] for c in cases})} languages, {unknown} unknown pieces")


if __name__ == "__main__":
    main()
