"use strict";
// Style sheets that BokehJS makes as it draws are marked as the page's own: the policy allows no others.
{
  const make = document.createElement;
  document.createElement = function (name, ...rest) {
    const element = make.call(this, name, ...rest);
    if (String(name).toLowerCase() === "style") element.nonce = "NONCE";
    return element;
  };
}
