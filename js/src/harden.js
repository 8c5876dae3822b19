// What a remote program may not do to the person who watches it: reach the clipboard, the title, links or the colours,
// or have answers typed back into its own shell. Full-screen programs may ask for the cursor and what kind of terminal this is.

const SWALLOWED_OSC = [0, 1, 2, 4, 8, 9, 10, 11, 12, 50, 52, 104, 110, 111, 112, 133, 633, 777, 1337];
const CURSOR_POSITION = 6;

export function harden(term) {
  const swallow = () => true;
  for (const code of SWALLOWED_OSC) term.parser.registerOscHandler(code, swallow);
  for (const id of [{ intermediates: "$", final: "q" }, { intermediates: "+", final: "q" }]) {
    term.parser.registerDcsHandler(id, swallow);
  }
  for (const id of [
    { final: "t" }, // window operations
    { intermediates: "$", final: "p" }, // which modes are set
    { prefix: "?", intermediates: "$", final: "p" },
    { prefix: "?", final: "n" },
    { prefix: ">", final: "q" }, // the terminal's version
  ]) {
    term.parser.registerCsiHandler(id, swallow);
  }
  term.parser.registerCsiHandler({ final: "n" }, (params) => params[0] !== CURSOR_POSITION);
}

/** Paste text without control characters, which could end a bracketed paste and run what follows. */
export function plainPaste(event, term) {
  event.preventDefault();
  event.stopPropagation();
  const text = event.clipboardData?.getData("text/plain") ?? "";
  term.paste(text.replace(/[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]/g, ""));
}
