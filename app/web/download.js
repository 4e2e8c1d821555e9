// The file was made when its button was pressed; this presses the hidden link to it once the page has it.
() => new Promise((done) => setTimeout(() => {
  const ready = document.querySelector("#ready");
  (ready.matches("a, button") ? ready : ready.querySelector("a, button")).click();
  done();
}, 150))
