"""Prose in English and Chinese, made of sentences with blanks, so that no two texts of different seeds are alike."""

from __future__ import annotations

import random
import re

END = {"en": ".", "zh": "。"}
JOINT = {"en": " ", "zh": ""}

# What the blanks {name} {place} {thing} {other} {kind} {number} may hold.
WORDS: dict[str, dict[str, list[str]]] = {
    lang: {blank: listed.split("|") for blank, listed in blanks.items()}
    for lang, blanks in {
        "en": {
            "name": "Anna|Boris|Clara|Daniel|Edith|Felix|Greta|Henry|Ingrid|Jonas|Karla|Lewis|Martha|Nathan|Olga|Peter",
            "place": "the harbour|the old library|the upper valley|a village near the border|the market square|the observatory|"
            "the town hall|the northern coast|a small workshop|the railway station|the botanical garden|the lower meadow|"
            "the university|the lighthouse|a farm beyond the hills|the reading room",
            "thing": "lantern|ledger|telescope|violin|barometer|suitcase|manuscript|carpet|compass|kettle|bicycle|portrait|"
            "ladder|microscope|anchor|typewriter",
            "other": "parser|cache|socket|queue|scheduler|index|buffer|decoder|iterator|registry|logger|matrix|tokenizer|"
            "compiler|allocator|cursor",
            "kind": "narrow|heavy|strange|careful|broken|bright|quiet|reliable|costly|faded|temporary|local|generous|"
            "complicated|familiar|plain",
        },
        "zh": {
            "name": "王老师|李明|张医生|陈芳|刘师傅|赵先生|孙小姐|周教授|吴船长|郑大爷|冯护士|何律师|林同学|罗队长|高经理|谢阿姨",
            "place": "北京|上海|广州|成都|杭州|西安|海边|山谷|图书馆|火车站|博物馆|植物园|老城区|码头|实验室|乡下",
            "thing": "灯笼|账本|望远镜|小提琴|气压计|手提箱|手稿|地毯|指南针|茶壶|自行车|画像|梯子|显微镜|船锚|打字机",
            "other": "解析器|缓存|接口|队列|调度器|索引|缓冲区|解码器|迭代器|日志|矩阵|分词器|编译器|内存|游标|线程",
            "kind": "狭窄|沉重|少见|仔细|破旧|明亮|安静|可靠|昂贵|褪色|临时|普通|慷慨|复杂|熟悉|精致",
        },
    }.items()
}
SENTENCES = {
    "en": """
{name} left {place} in {number} with a {kind} {thing} and the promise to write to {name}
Nobody at {place} had ever seen such a {kind} {thing}, so {name} asked where it came from
Return the {other} of this {thing}, or raise an error if {number} entries have been read
After a {kind} winter the people of {place} sold {number} pieces of wood to buy a {thing}
What {name} remembered of {place} was mostly the {kind} light above the {thing}
The {other} must be closed by its caller, even when the {kind} {other} fails after {number} seconds
When {name} opened the {thing}, a {kind} letter from {place} fell on the floor
It took {number} days to carry the {thing} from {place} to the house of {name}
If the {other} is empty, a {kind} default is used and the {other} keeps its {number} slots
Many visitors of {place} believe that {name} built the {kind} {thing} alone
{name} and {name} could not agree whether the {thing} was {kind} or only old
Because the road to {place} was {kind}, {name} arrived {number} hours late
The museum keeps {number} letters in which {name} describes {place} and a {kind} {thing}
Each {other} holds at most {number} items; the {kind} ones are written to the {other} first
She asked {name} for the {thing}, and he gave her directions to {place} instead
There is a {kind} path behind {place} that only {name} and the children know
For {number} years the {thing} had stood in {place} without anybody asking for {name}
Use this {other} with care: a {kind} {other} is shared by all {number} workers
In the evening {name} would sit near {place} and repair the {kind} {thing}
The teacher explained to {name} how a {thing} works, although it was {kind} and had {number} parts
We walked from {place} as far as the bridge, where {name} was waiting with a {kind} {thing}
Most of what is known about {name} comes from a {thing} found in {place} in {number}
A {kind} {other} does not copy its input, which saves about {number} bytes for each {other}
The storm had damaged {place}, but the {thing} of {name} was as {kind} as before
Until {number} every {thing} in {place} had to be registered by {name} at the office
"It is {kind} enough for {place}," said {name} and put the {thing} on the table
Before the {other} starts, it checks that {number} files exist and that the {other} is {kind}
Only {name} noticed that the {kind} {thing} was missing when the train left {place}
Its price rose to {number} pounds, so {name} had to leave the {thing} at {place}
The guests from {place} brought a {thing}, {number} apples and a {kind} story about {name}
""",
    "zh": """
{name}在{number}年离开了{place}，随身只带着一个{kind}的{thing}
{place}的人从来没有见过这样{kind}的{thing}，于是都去问{name}
如果{other}里已经有{number}条记录，这个函数就会返回一个{kind}的{other}
冬天过后，{name}把{number}斤木头运到{place}，换回了一个{thing}
关于{place}，{name}记得最清楚的是窗边那个{kind}的{thing}
即使{other}在{number}秒以后出错，调用者也必须自己关闭{kind}的{other}
{name}打开{thing}的时候，一封来自{place}的{kind}的信掉在了地上
把这个{thing}从{place}搬到{name}的家里，一共花了{number}天
当{other}为空时，程序会使用{kind}的默认值，同时保留{number}个{other}
很多到过{place}的游客都相信，那个{kind}的{thing}是{name}一个人做的
{name}和{name}争论了很久，不知道这个{thing}究竟是{kind}还是过时
因为去{place}的路十分{kind}，{name}晚到了{number}个小时
博物馆里保存着{number}封信，信里{name}描写了{place}和一个{kind}的{thing}
每个{other}最多存放{number}个元素，其中{kind}的部分会先写进{other}
她向{name}借{thing}，对方却告诉她怎样走到{place}
{place}后面有一条{kind}的小路，只有{name}和孩子们知道
整整{number}年，这个{thing}一直放在{place}，没有人向{name}问起
使用这个{other}时要小心，因为{kind}的{other}由{number}个进程共享
每到傍晚，{name}总是坐在{place}旁边修理那个{kind}的{thing}
老师给{name}讲解{thing}的原理，虽然它很{kind}，还有{number}个零件
我们从{place}一直走到桥边，{name}正拿着{kind}的{thing}等我们
人们对{name}的了解，大多来自{number}年在{place}发现的一个{thing}
{kind}的{other}不会复制输入的数据，因此每个{other}可以节省{number}个字节
暴风雨毁坏了{place}，可是{name}的{thing}仍然和从前一样{kind}
直到{number}年，{place}的每一个{thing}都要由{name}登记
“对{place}来说，它已经够{kind}了”，{name}说完就把{thing}放在桌上
启动之前，{other}会检查{number}个文件是否存在，以及{other}是否{kind}
火车开出{place}以后，只有{name}发现那个{kind}的{thing}不见了
它的价格涨到了{number}元，{name}只好把{thing}留在{place}
来自{place}的客人带来了{thing}、{number}个苹果和一个关于{name}的{kind}的故事
""",
}
BLANK = re.compile(r"\{(\w+)\}")


def sentences(lang: str, draw: random.Random, number: int) -> list[str]:
    """So many different sentences, without the mark at the end; 30 at most."""
    chosen = draw.sample(SENTENCES[lang].strip().split("\n"), number)
    return [
        (found := BLANK.sub(lambda blank: _word(lang, blank[1], draw), text))[0].upper() + found[1:] for text in chosen
    ]


def _word(lang: str, blank: str, draw: random.Random) -> str:
    return str(draw.randrange(11, 2000)) if blank == "number" else draw.choice(WORDS[lang][blank])


def paragraphs(lang: str, seed: object, number: int = 6, size: int = 2) -> list[str]:
    """So many lines of `size` sentences, each closed by its mark; the same for the same seed."""
    found = sentences(lang, random.Random(f"{lang} {seed}"), number * size)
    closed = [sentence + END[lang] for sentence in found]
    return [JOINT[lang].join(closed[start : start + size]) for start in range(0, len(closed), size)]


# --- texts that no blanks make ---------------------------------------------------------------------------------------

GERMAN = """
Der alte Hafen lag am Morgen still, und niemand glaubte, dass das Schiff noch einmal zurückkehren würde.
Auf dem Markt verkauften die Bauern Äpfel, Kartoffeln und frisches Brot aus den Dörfern der Umgebung.
Meine Großmutter erzählte uns abends Geschichten von Räubern, die früher im Wald gelebt haben sollen.
Wer im Winter über den Pass gehen wollte, musste vor Sonnenaufgang aufbrechen und warme Kleidung tragen.
Die Kinder bauten am Fluss einen Damm aus Steinen, bis das Wasser über die Wiese zu laufen begann.
Später wurde die Brücke erneuert, weil sie den schweren Wagen der Fabrik nicht mehr gewachsen war.
""".strip()
# A language that CLD2 has no name for: words of no tongue, with the marks of prose.
NO_TONGUE = """
Zqurvex plimdoth wexzaq brundlfip, xoquv zemmirth gwaxle porqunt.
Vlimzoq harxundel qiptwosh, fenzulax drombiqu wathzer plogniv.
Xerquimt olvandish bruzeqol, tampwix querzadul fligmonth zarvep.
Gwindolax pertzumiq vorshlane, huxabrim delquozt wimfarle nozqip.
Braxumelt ziponqward lethvumix, sorgdaple quimzent oxlavurd fep.
Dromquezil warbunxot pimzelgav, ulthorqen fazwimped xolgrunt viz.
""".strip()
SHORT_WORDS = """
If it is up to me, we go to the sea at six or so.
He got on a bus, as he had a day off, and so did I.
Is it an ox or a pig, or is it a big old dog by far?
No, it is a red hen, and she is as shy as an owl.
Go in by it and see who is at the top, or ask my mum.
You may try to sit on it, but do not let it be so hot.
At two we ate a pie of figs, an egg and a bit of jam.
""".strip()
LONG_WORDS = """
Extraordinarily sophisticated telecommunications infrastructures presuppose internationally standardized specifications.
Environmental organizations occasionally misunderstand technological, administrative and institutional responsibilities.
Unfortunately, contemporary historiography underestimates transcontinental transportation and industrialization.
Representative investigations demonstrate disproportionately unsatisfactory communication between departments.
Multidisciplinary collaborations notwithstanding, experimental electrochemistry necessitates considerable experience.
Philosophical interpretations of straightforwardly mathematical generalizations frequently contradict psychological observations.
Simultaneously, pharmaceutical manufacturers systematically reconsidered comprehensive documentation to accommodate international legislation.
""".strip()
# Lines without one of Gopher's stop words, and others in a terse Chinese that does without particles.
NO_STOP_WORDS = {
    "en": """
Birds sing loudly at dawn near our windows, long before anybody gets up for work.
Every morning our neighbour waters his roses while his dog sleeps under an apple tree.
Some children ride bicycles along this narrow street until their parents call them home.
Yesterday rain fell for several hours, so all players left early without finishing their game.
My sister paints small landscapes on wood; her teacher likes those blue mountains best.
Our train arrives at nine, but her bus never comes before ten on Sundays.
He reads old maps by candle light, hoping he might find some forgotten island.
""".strip(),
    "zh": """
春天来临，花园开满鲜花，农民清晨下地播种。
河水缓缓流过村庄，孩子放学回家，沿途采摘野花。
夏天炎热，老人坐树下乘凉，喝茶下棋，谈论收成。
秋天到来，树叶变黄，果园飘香，工人忙着采摘苹果。
冬天下雪，群山一片洁白，邻居围坐炉边烤火。
清晨渔夫出海，傍晚满载归来，市场顿时热闹非凡。
夜里月亮升起，星光照耀屋顶，远处传来悠扬笛声。
""".strip(),
}
# Short lines, each a sentence that stands once.
_SHORT = {
    "en": "likes tea with milk|sings every day|paints old walls|tells a good joke|has dogs and cats|walks alone|reads maps|"
    "likes the first snow|eats bread with salt|sits and reads|sleeps for long|grows green apples|comes on time|paints a blue door|"
    "cooks the soup|plays chess|asks once more|cleans the windows|writes letters|goes home at six|waits for rain|sells warm coats",
    "zh": "喜欢喝绿茶|爱唱民歌|住在海边|修好了墙|讲了个笑话|养着两只猫|等着下雨|独自散步|收藏地图|盼望初雪|做了豆腐|买来面包|坐着读书|"
    "睡得很早|种了苹果|从不迟到|记得生日|刷了油漆|打扫房间|煮好了汤|下了盘棋|又问一遍|擦亮窗户|写了短信",
}
SHORT_LINES = {
    lang: [
        JOINT[lang].join((name, does)) + END[lang]
        for name, does in zip(WORDS[lang]["name"] * 2, listed.split("|"), strict=False)
    ]
    for lang, listed in _SHORT.items()
}
FEW_WORDS = {
    "en": """
Yesterday evening Margaret finally discovered the photographs behind grandmother's wardrobe.
Everybody admired them.
Several neighbours recognised themselves immediately.
The youngest laughed.
Afterwards the family celebrated with homemade gingerbread, and Margaret promised everybody beautiful copies.
""".strip(),
    "zh": "昨天晚上，李明在书柜后面找到了旧照片。大家都很喜欢。邻居也认出了自己。孩子们笑了起来。后来全家一起吃了晚饭，还要把照片送给朋友。",
}
VERY_FEW_WORDS = {
    "en": "Unquestionably magnificent. Breathtaking performances throughout. Congratulations, everybody. Disappointing refreshments, "
    "nevertheless. The audience applauded.",
    "zh": "画蛇添足，守株待兔，亡羊补牢。刻舟求剑，掩耳盗铃，杞人忧天。井底之蛙，对牛弹琴，狐假虎威。叶公好龙，滥竽充数，自相矛盾。愚公移山。",
}
QUESTIONS = {
    "en": "Which of the seven planets known to Kepler moves so slowly that a year there lasts twenty nine of ours?",
    "zh": "在开普勒所知道的行星当中，哪一颗离太阳最远，走得最慢，以至于那里的一年相当于我们地球上的二十九年还要多一点，"
    "而它周围又有一圈十分美丽的光环？",
}
# Lines that many documents share.
SHARED = {
    "en": """
This page belongs to the collection of the town archive and may be read there by everybody.
The editors thank all the volunteers who typed these old letters in their evenings and weekends.
Readers who find a mistake in this text are asked to leave a note at the front desk.
The collection is closed on public holidays and on the first Monday of every month.
A printed edition of all volumes can be ordered from the bookshop opposite the church.
The pictures of this chapter are kept in the cellar and are shown only on request.
""".strip().split("\n"),
    "zh": """
本页内容属于市档案馆的馆藏资料，任何人都可以到馆内免费阅读。
编辑部感谢所有利用晚上和周末时间录入这些旧信件的志愿者。
读者如果发现文字中有错误的地方，请到前台给我们留下一张便条。
本馆在法定节假日和每个月的第一个星期一不对外开放，敬请谅解。
各卷的印刷本都可以在教堂对面的书店里预订，一般三天之内送到。
本章的图片都保存在地下室里，只有提出申请的人才能够看到原件。
""".strip().split("\n"),
}
# What clean prose may hold and rules may stumble over.
ODDITIES = {
    "en": """
See https://example.org/guide?part=3 for the rest.
Version 10.2.0.1 of it runs on 192.168.0.17 and on 127.0.0.1.
The book has the ISBN 978-0-13-468599-1, and its order number is 20240115-0042.
He measured 3.14159265 and 2.718281828 at 10:45 on 2024-01-15.
She wrote: "We shall see …" and then nothing more.
Use x < y and a > b, or List<String> where you must.
Prices (e.g. of No. 7) fell by 12.5% in the U.S. and in the U.K.
The word 图书馆 means library.
""".strip().split("\n"),
    "zh": """
详情请看 https://example.org/guide?part=3 的说明。
它的版本是10.2.0.1，服务器的地址是192.168.0.17。
这本书的编号是978-7-302-51234-5，订单号是20240115004200。
会议在2024年1月15日上午10点45分开始，一共开了3.5个小时。
他说：“明天再见……”，然后就走了。
其中a < b并且x > y的部分要用List<String>表示。
价格下降了12.5%，也就是说便宜了300元。
“图书馆”的英文是library，法文是bibliothèque。
""".strip().split("\n"),
}
