"use strict";
{
  // Style sheets that BokehJS makes as it draws are marked as the page's own: the policy allows no others.
  const make = document.createElement;
  document.createElement = function (name, ...rest) {
    const element = make.call(this, name, ...rest);
    if (String(name).toLowerCase() === "style") element.nonce = "NONCE";
    return element;
  };
  // BokehJS clears a canvas half a pixel off its corner: traces of what was drawn before stay along two edges.
  const { prototype } = CanvasRenderingContext2D;
  const clear = prototype.clearRect;
  prototype.clearRect = function (x, y, width, height) {
    clear.call(this, x - 1, y - 1, width + 2, height + 2);
  };
}
