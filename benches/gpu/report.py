"""ccl and PyTorch side by side: a table, the project's bounds, a picture. Plain Python, for `compare.py`."""
from xml.sax.saxutils import escape

# What is promised: (text, cases by the end of their ids, form of PyTorch that counts, largest seconds of ccl over PyTorch's).
BOUNDS = [
    ("partitioned attention takes at most 0.5 of PyTorch's best form", ("cca",), None, 0.5),
    ("self-attention reaches 0.6 of cuDNN's rate", ("self_attention",), "cudnn", 1 / 0.6),
    ("plain products reach 0.75 of cuBLAS's rate",
     ("projection", "cca.keys", "projection.dx", "projection.dw", "ffn.up.dx", "ffn.up.dw"), "cublas", 1 / 0.75),
    ("fused chains are ahead of torch.compile",
     ("ffn.up", "ffn.down", "projection.gate", "norm_modulate", "norm_rope", "gate_residual", "layer_norm"), "torch.compile", 1.0),
]
STEP = ("a denoising step takes at most 0.9 of torch.compile's", 0.9)
ERRORS = ("errors of bf16 are at most twice PyTorch's", 2.0)


def human(seconds):
    """Seconds for people."""
    for unit, scale in (("s", 1), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def compare(ours, theirs, our_step=None, our_errors=None):
    """Rows of ratios, and which bounds hold. Without `ours` there is nothing to compare."""
    mine = {k["id"]: k for k in ours["kernels"]} if ours else {}
    in_turns = theirs.get("turns") or {}
    rows = []
    for k in theirs.get("kernels", []):
        row = {"id": k["id"], "theirs_s": k["best_s"], "form": k["best"], "forms": k["forms"], "ours_s": None, "ratio": None}
        if k["id"] in mine:
            row["ours_s"], row["library"] = mine[k["id"]]["seconds"], mine[k["id"]].get("library", False)
        if k["id"] in in_turns:
            # Both from the same minute, which is what is compared.
            turn = in_turns[k["id"]]
            row |= {"ours_s": turn["ours_s"], "forms": k["forms"] | {turn["form"]: turn["theirs_s"]}, "turns": True}
            row["form"] = min(row["forms"], key=row["forms"].get)
            row["theirs_s"] = row["forms"][row["form"]]
        if row["ours_s"] is not None and row["theirs_s"]:
            row["ratio"] = row["ours_s"] / row["theirs_s"]
        rows.append(row)
    alone = [{"id": i, "ours_s": k["seconds"], "theirs_s": None, "form": None, "forms": {}, "ratio": None}
             for i, k in mine.items() if i not in {r["id"] for r in rows}]
    bounds = [bound(rows, *b) for b in BOUNDS]
    bounds += [step_bound(our_step, theirs.get("step")), error_bound(our_errors, theirs.get("errors"))]
    same = not ours or not theirs.get("device") or ours["device"] == theirs["device"]
    if not same or theirs.get("dry_run"):
        # Ratios of two machines, or of next to nothing, say nothing.
        bounds = [b | {"state": "not measured"} for b in bounds]
    return {"ours": ours and {k: ours[k] for k in ("device", "dtype", "clock") if k in ours},
            "theirs": {k: theirs.get(k) for k in ("torch", "device", "dtype", "dry_run")},
            "same_device": same, "rows": rows + alone, "bounds": bounds, "step": step_lines(our_step, theirs.get("step"))}


def bound(rows, text, names, form, most):
    """A bound, case by case. A form that PyTorch lacks here is replaced by its best one."""
    cases = []
    for row in rows:
        if row["ours_s"] is None or not row["forms"] or row["id"].split(".", 1)[1] not in names:
            continue
        used = form if form in row["forms"] else row["form"]
        cases.append(held(row["id"], row["ours_s"] / row["forms"][used], used, most))
    return judged(text, most, cases)


def held(name, ratio, form, most):
    return {"id": name, "ratio": ratio, "form": form, "holds": ratio <= most, "over": max(ratio / most - 1, 0)}


def judged(text, most, cases):
    state = "not measured" if not cases else "holds" if all(c["holds"] for c in cases) else "does not hold"
    return {"text": text, "state": state, "most": most, "cases": cases}


def step_bound(ours, theirs):
    text, most = STEP
    if not ours or not theirs or not theirs.get("step_s"):
        return judged(text, most, [])
    compiled = theirs.get("compiled", theirs.get("compile"))
    case = held(f"step.{ours['task']}", ours["step_s"] / theirs["step_s"], "torch.compile" if compiled else "eager", most)
    # Being ahead of what is not compiled proves nothing.
    return judged(text, most, [case]) | ({} if compiled else {"state": "not measured"})


def error_bound(ours, theirs):
    text, most = ERRORS
    both = [name for name in ours or {} if (theirs or {}).get(name)]
    return judged(text, most, [held(name, ours[name] / theirs[name], "PyTorch", most) for name in both])


def step_lines(ours, theirs):
    """What became of the step, in words."""
    if not theirs:
        return []
    lines = [f"the step of PyTorch by {form} failed: {why}" for form, why in theirs.get("failed", {}).items()]
    if theirs.get("step_s"):
        form = "torch.compile" if theirs.get("compiled", theirs.get("compile")) else "eager, not compiled"
        mine = f", of ccl {human(ours['step_s'])}" if ours else ""
        lines.append(f"the step of PyTorch ({form}) takes {human(theirs['step_s'])}{mine}")
    return lines


def text(result):
    """The comparison as a table."""
    lines = [f"{'':<32} {'ccl':>10} {'PyTorch':>10} {'ratio':>7}  best form"]
    for r in result["rows"]:
        cell = lambda s: human(s) if s is not None else "-"
        ratio = f"{r['ratio']:.2f}" if r["ratio"] is not None else "-"
        more = ", ccl by cuBLASLt" * bool(r.get("library")) + ", in turns" * bool(r.get("turns"))
        lines.append(f"{r['id']:<32} {cell(r['ours_s']):>10} {cell(r['theirs_s']):>10} {ratio:>7}  {r['form'] or '-'}{more}")
    if not result["same_device"]:
        lines.append(f"NOT THE SAME DEVICE: {result['ours']['device']} and {result['theirs']['device']}; the ratios mean nothing")
    if result["theirs"].get("dry_run"):
        lines.append("DRY RUN: tiny sizes on a processor; the ratios mean nothing")
    lines += ["", *result["step"], *[""] * bool(result["step"])]
    for b in result["bounds"]:
        lines.append(f"{b['state']:<14} {b['text']}")
        for c in b["cases"]:
            over = "" if c["holds"] else f", {100 * c['over']:.3g} % too much"
            lines.append(f"{'':<14}   {c['id']}: {c['ratio']:.2f} of {c['form']} (at most {b['most']:.2f}{over})")
    return "\n".join(lines)


def svg(result):
    """Bars of the ratios; shorter is better, the line is where both take as long."""
    rows = [r for r in result["rows"] if r["ratio"] is not None]
    left, bar, height, width = 240, 420, 20, 760
    most = 2.0
    x = lambda ratio: left + bar * min(ratio, most) / most
    tall = 70 + height * max(len(rows), 1)
    note = " DRY RUN" if result["theirs"].get("dry_run") else ""
    title = f"Seconds of ccl over PyTorch's best form, {result['theirs'].get('device') or 'unknown device'}{note}"
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {tall}" font-family="sans-serif" font-size="12">',
           f'<rect width="{width}" height="{tall}" fill="#fff"/>',
           f'<text x="12" y="22" font-size="15">{escape(title)}</text>']
    for tick in (0, 0.5, 1, 1.5, 2):
        dash = "" if tick == 1 else ' stroke-dasharray="2 3"'
        out.append(f'<line x1="{x(tick)}" x2="{x(tick)}" y1="46" y2="{tall - 16}" stroke="#888"{dash}/>')
        out.append(f'<text x="{x(tick)}" y="42" text-anchor="middle" fill="#555">{tick:g}</text>')
    for i, r in enumerate(rows):
        y = 52 + height * i
        colour = "#2a7f62" if r["ratio"] <= 1 else "#c05621"
        out.append(f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">{escape(r["id"])}</text>')
        out.append(f'<rect x="{left}" y="{y + 1}" width="{x(r["ratio"]) - left:.1f}" height="{height - 6}" fill="{colour}"/>')
        label = f'{r["ratio"]:.2f} ({human(r["ours_s"])}, {r["form"]} {human(r["theirs_s"])})'
        out.append(f'<text x="{x(r["ratio"]) + 6:.1f}" y="{y + 12}" fill="#333">{escape(label)}</text>')
    if not rows:
        out.append('<text x="12" y="62">nothing was measured on both sides</text>')
    return "\n".join([*out, "</svg>", ""])
