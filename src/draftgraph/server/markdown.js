/* A little Markdown: fenced code, lists, headings, `code`, **bold**, *italic*. The text goes into text nodes and nowhere else.
   write(parent, from, to) appends the characters from..to of the text to an element. */

const FENCE = /^ {0,3}(`{3,}|~{3,})[^`]*$/, HEADING = /^#{1,6} +/, ITEM = /^( *)([-*+]|\d{1,9}[.)]) +/;
const INLINE = /`([^`\n]+)`|\*\*([^\s*](?:[^*\n]*[^\s*])?)\*\*|(?<![\w*])\*([^\s*](?:[^*\n]*[^\s*])?)\*(?![\w*])/g;
const TAGS = [["code", 1], ["strong", 2], ["em", 1]];

function inline(parent, text, from, to, write) {
  let at = from;
  for (const found of text.slice(from, to).matchAll(INLINE)) {
    const start = from + found.index, [tag, edge] = TAGS[[1, 2, 3].find((group) => found[group] !== undefined) - 1];
    write(parent, at, start);
    const element = parent.appendChild(make(tag));
    at = start + found[0].length;
    write(element, start + edge, at - edge);
  }
  write(parent, at, to);
}

/* The lines of a text as [from, to), without what ends them. */
function linesOf(text) {
  const lines = [];
  for (let at = 0; at <= text.length;) {
    const end = text.indexOf("\n", at), to = end === -1 ? text.length : end;
    lines.push([at, to]);
    at = to + 1;
  }
  return lines;
}

function markdown(place, text, write) {
  const lines = linesOf(text), line = (i) => text.slice(...lines[i]);
  const opens = (i) => FENCE.test(line(i)) || HEADING.test(line(i)) || ITEM.test(line(i));
  let list = null;
  for (let i = 0; i < lines.length;) {
    const [from, to] = lines[i], fence = FENCE.exec(line(i)), heading = HEADING.exec(line(i)), item = ITEM.exec(line(i));
    if (!item) list = null;
    if (fence) {
      let end = i + 1;
      while (end < lines.length && !(line(end).trim().startsWith(fence[1]) && /^[`~]+$/.test(line(end).trim()))) end++;
      const code = place.appendChild(make("pre", { tabindex: "0" })).appendChild(make("code"));
      if (end > i + 1) write(code, lines[i + 1][0], lines[end - 1][1]);
      i = end + 1;
    } else if (heading) {
      inline(place.appendChild(make("h3")), text, from + heading[0].length, to, write);
      i++;
    } else if (item) {
      const tag = /\d/.test(item[2]) ? "ol" : "ul";
      if (!list || list.localName !== tag) {
        list = place.appendChild(make(tag));
        if (tag === "ol") list.start = parseInt(item[2], 10);
      }
      inline(list.appendChild(make("li")), text, from + item[0].length, to, write);
      i++;
    } else if (line(i).trim() === "") {
      i++;
    } else {
      let end = i + 1;
      while (end < lines.length && line(end).trim() !== "" && !opens(end)) end++;
      inline(place.appendChild(make("p")), text, from, lines[end - 1][1], write);
      i = end;
    }
  }
}
