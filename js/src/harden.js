// Protects the user from remote output. A program in the task must not reach the clipboard, the page title,
// links or colours, and must not make the terminal type answers back into its shell. Two queries stay
// allowed, because full-screen programs need them: the cursor position and the type of the terminal.

const SWALLOWED_OSC = [0, 1, 2, 4, 8, 9, 10, 11, 12, 50, 52, 104, 110, 111, 112, 133, 633, 777, 1337];
const CURSOR_POSITION = 6;

/** Make the terminal ignore dangerous escape sequences. */
export function harden(term) {
  const swallow = () => true;
  for (const code of SWALLOWED_OSC) term.parser.registerOscHandler(code, swallow);
  for (const id of [{ intermediates: "$", final: "q" }, { intermediates: "+", final: "q" }]) {
    term.parser.registerDcsHandler(id, swallow);
  }
  for (const id of [
    { final: "t" }, // window operations
    { intermediates: "$", final: "p" }, // query of a mode
    { prefix: "?", intermediates: "$", final: "p" },
    { prefix: "?", final: "n" },
    { prefix: ">", final: "q" }, // the terminal's version
  ]) {
    term.parser.registerCsiHandler(id, swallow);
  }
  // "n" asks for a status. Answer only the cursor position.
  term.parser.registerCsiHandler({ final: "n" }, (params) => params[0] !== CURSOR_POSITION);
}

/**
 * Paste text without control characters. They could end a bracketed paste, and the shell would run the rest.
 */
export function plainPaste(event, term) {
  event.preventDefault();
  event.stopPropagation();
  const text = event.clipboardData?.getData("text/plain") ?? "";
  term.paste(text.replace(/[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]/g, ""));
}
