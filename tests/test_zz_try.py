import cProfile, pstats, os
from dataclasses import replace
def test_it(tmp_path):
    from telme.corpora import read_corpus
    from telme.prepare import prepare
    from telme.recognizer import Recognizer
    import time
    t=time.time()
    corpus = read_corpus("meld", os.environ["TELME_MELD"]); print("read", time.time()-t); t=time.time()
    some = {"dev": corpus.splits["dev"][:16]}
    store = prepare(replace(corpus, splits=some, sources={}), tmp_path / "store"); print("prep", time.time()-t); t=time.time()
    mini = Recognizer.from_pretrained("mini");print("load", time.time()-t); t=time.time()
    cs = store.conversations("dev"); print(sum(map(len, cs)))
    mini(cs); print("all", time.time()-t); t=time.time()
    for c in cs: mini(c)
    print("each", time.time()-t); t=time.time()
